"""Asking a model: the same answers for the rows of a hospital's file and over MLflow's scoring server."""
