"""`spotinference figures`: latency and throughput from the ledger."""
