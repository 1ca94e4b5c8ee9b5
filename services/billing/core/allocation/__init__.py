"""Whose cost is what: from charges, machine time and tokens to causes, tiers and machines."""
