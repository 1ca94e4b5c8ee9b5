"""The fixtures that every test may use, each from its module in `tests/kit`."""

pytest_plugins = ["tests.kit.engine", "tests.kit.nats_server", "tests.kit.postgres", "tests.kit.scripted_engine"]
