"""`spotinference budget`: show and override the budget gates."""
