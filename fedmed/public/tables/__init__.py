"""Tables that ship with FedMed, each with its licence, attribution and build script beside it."""
