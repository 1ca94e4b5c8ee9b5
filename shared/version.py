"""The version of this code. In an image it has no package metadata; a test compares it with `pyproject.toml`."""

VERSION = "0.1.0"
