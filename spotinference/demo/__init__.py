"""`spotinference demo`: the whole system once, with real components, in under a minute."""
