"""The small CPU engine of the demo and the tests: `python -m spotinference.engine`."""
