"""`spotinference cordon`: keep requests from a machine."""
