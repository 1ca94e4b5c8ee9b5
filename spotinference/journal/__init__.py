"""`spotinference journal`: show what happened to the machines and the budget gates."""
