"""What the gateway does when something happens."""
