"""`spotinference statement`: what a key used in a month, and what it costs."""
