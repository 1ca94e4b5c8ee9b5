"""`spotinference check`: validate the configuration and try what can be reached."""
