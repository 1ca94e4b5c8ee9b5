"""When a day report becomes a new revision, and why it differs from the one before."""
