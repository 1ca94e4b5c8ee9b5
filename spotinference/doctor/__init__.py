"""`spotinference doctor`: compare a day's counts, from the engines to the report."""
