"""OpenAI's HTTP API on aiohttp, and the relay between a client and an engine."""
