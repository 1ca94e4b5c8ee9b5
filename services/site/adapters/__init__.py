"""Where the site touches the world: HTTP, the bus, the database, identity providers."""
