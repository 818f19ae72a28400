"""What is learned: the inputs' encoding, the networks, and the two together as one model that takes raw rows."""
