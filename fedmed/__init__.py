"""FedMed: federated learning for hospitals as an MLOps pipeline."""

__version__ = "0.1.0"
