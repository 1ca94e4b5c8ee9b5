"""`spotinference restore`: put a backup into an empty bus and in the place of lost databases."""
