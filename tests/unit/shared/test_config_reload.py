"""What of a configuration changes while a service runs."""

import pytest

from shared.config.load import parse
from shared.config.reload import merge_reloaded
from shared.errors import Misconfigured

TEXT = """
[waker]
idle_timeout = "20s"
[[tier]]
name = "t"
provider = "process"
[[machine]]
id = "m1"
tier = "t"
command = ["engine", "{port}"]
[[model]]
name = "m"
lineup = ["t"]
"""
CLOUD = """
[[tier]]
name = "c"
provider = "ec2"
[[machine]]
id = "m2"
tier = "c"
instance = "i-1"
endpoint = "http://10.0.0.1:8000"
"""


def test_tables_change_and_other_sections_are_named() -> None:
    running = parse(TEXT, "old")
    new = parse(TEXT.replace('"20s"', '"30s"').replace('"m1"', '"m9"').replace('"m"', '"other"'), "new")
    merged, waiting = merge_reloaded(running, new)
    assert (list(merged.machines), [model.name for model in merged.model]) == (["m9"], ["other"])
    assert merged.waker == running.waker
    assert waiting == ("waker",)


def test_tables_that_need_another_section_are_rejected() -> None:
    new = parse(TEXT + CLOUD + '[provider.ec2]\nregion = "us-east-1"\n', "new")
    with pytest.raises(Misconfigured, match=r"restart the service, because \[provider\] changed as well"):
        merge_reloaded(parse(TEXT, "old"), new)


def test_file_that_has_lost_the_whole_fleet_is_rejected() -> None:
    running = parse(TEXT, "old")
    for text in ("", '[waker]\nidle_timeout = "20s"\n'):
        with pytest.raises(Misconfigured, match="no tier, machine or model any more"):
            merge_reloaded(running, parse(text, "new"))
