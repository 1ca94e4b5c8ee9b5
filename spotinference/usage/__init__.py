"""`spotinference usage`: token counts from the ledger."""
