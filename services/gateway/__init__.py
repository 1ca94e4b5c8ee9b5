"""Takes the OpenAI calls, holds them while a machine wakes, relays the engine, counts the tokens."""
