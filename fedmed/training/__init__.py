"""How weights are fitted to one hospital's rows: inside a round, and alone for comparison."""
