"""What the coordinator does: invite, aggregate, choose. It knows a hospital only by its messages."""
