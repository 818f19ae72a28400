"""Where coordinator and hospitals meet: typed messages, their payloads, and the places that hold them."""
