"""`spotinference meter`: maintain the ledger."""
