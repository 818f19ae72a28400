"""How good a model is, how surely that is known, and whether federating helped."""
