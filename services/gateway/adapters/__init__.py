"""Where the gateway touches the world: engines, the bus, the disk."""
