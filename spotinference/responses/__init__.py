"""`spotinference responses`: how requests were answered."""
