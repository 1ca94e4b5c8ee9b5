"""The meter's use cases: record usage, answer queries, recover, and audit."""
