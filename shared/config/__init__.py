"""The configuration: one strict TOML file, read once and the same for every service. It holds no secrets."""
