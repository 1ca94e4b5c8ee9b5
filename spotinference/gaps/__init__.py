"""`spotinference gaps`: list usage events that are missing, and declare them lost."""
