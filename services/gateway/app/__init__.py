"""The use cases: what the gateway does when something happens."""
