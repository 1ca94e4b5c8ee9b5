"""`spotinference fleet`: show the machines."""
