"""Public pages, sign-in, keys, and the operator's dashboard."""
