"""`spotinference hibernate`: put a machine to sleep."""
