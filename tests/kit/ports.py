"""Ports for what has to be told its own before it listens."""

import itertools
import os
import random
import socket

FIRST = 11_000
"""Below those that the system gives to whoever asks for any: nobody else's connection takes one meanwhile."""
SHARE = 2_000
"""Of each worker, of which there are hardly more than ten."""

_share = FIRST + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10 * SHARE
_numbers = itertools.count(random.SystemRandom().randrange(SHARE))


def free_port() -> int:
    """One that nobody listens on, and that was not given out lately."""
    while True:
        port = _share + next(_numbers) % SHARE
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
