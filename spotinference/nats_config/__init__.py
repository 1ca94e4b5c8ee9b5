"""`spotinference nats-config`: the bus's users, their keys and what each may do."""
