"""`spotinference up`: the whole suite on one host, and nothing left behind."""
