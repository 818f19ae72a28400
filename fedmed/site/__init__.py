"""What a hospital does: hold its data, and answer invitations. It knows the coordinator only by its messages."""
