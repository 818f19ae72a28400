"""A hospital's data: how it is declared, read, split, encrypted and checked."""
