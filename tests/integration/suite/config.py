"""The configuration of the suite's tests: one machine, its engine a real one with a tiny model."""

import json
from collections.abc import Sequence

SOON = 'gateway_timeout = "4s"'
"""For the section of the waker: a new leader waits for so long, and not 10 s, before it lets a machine sleep."""


def config(command: Sequence[str], *, tier: str = "", gateway: str = "", waker: str = "") -> str:
    """TOML; the arguments are more lines for their sections."""
    return f"""
[gateway]
port = 0
drain_grace = "5s"
{gateway}
[waker]
{waker}
[[tier]]
name = "local"
provider = "process"
max_concurrency = 8
{tier}
[[machine]]
id = "local-1"
tier = "local"
instance = "i-1"
command = {json.dumps(list(command))}
[[model]]
name = "tiny"
lineup = ["local"]
"""
