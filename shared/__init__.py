"""The parts every service stands on: messages, bus, configuration, database, runtime. Knows no service."""
