"""The HTTP server of the pages."""
