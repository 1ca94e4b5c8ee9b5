"""`spotinference keys`: create, list and revoke API keys."""
