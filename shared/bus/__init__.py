"""The message bus: what is on it (`topology`), what one can do with it (`ports`), NATS and an in-memory double."""
