"""`spotinference report`: the cost of a million tokens."""
