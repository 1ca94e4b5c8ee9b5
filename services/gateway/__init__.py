"""Serves the OpenAI API: holds requests while a machine wakes, relays the engine, counts the tokens."""
