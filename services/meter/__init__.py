"""Usage events into the ledger, each exactly once."""
