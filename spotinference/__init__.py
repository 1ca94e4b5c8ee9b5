"""The operator's command and the launcher that runs the whole suite on one host."""
