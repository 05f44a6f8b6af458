"""What a user takes away from a run: the network in other formats, and on other weights."""
