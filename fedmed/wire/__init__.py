"""What coordinator and hospitals say to each other: messages, their addresses, and how they stand in an exchange."""
