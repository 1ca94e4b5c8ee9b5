"""`spotinference plan`: replay recorded requests under each idle policy."""
