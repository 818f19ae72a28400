"""How updates become one model: exact integer sums, and strategies over them."""
