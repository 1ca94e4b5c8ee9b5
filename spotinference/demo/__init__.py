"""`spotinference demo`: the whole job end to end, on real parts, in under a minute."""
