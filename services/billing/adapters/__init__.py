"""Where billing touches the world: the database and the bus."""
