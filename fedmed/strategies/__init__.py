"""Federated algorithms: what a hospital does in its turn, and how the coordinator moves the global weights, by name."""
