"""What may leave a hospital: small cells and what follows from them."""
