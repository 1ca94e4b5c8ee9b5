"""A record of the fleet is believed only where it agrees with the configuration."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bus.memory import MemoryBus
from shared.bus.subjects import machine_key
from shared.bus.topology import FLEET
from shared.bus.view import View
from shared.config.load import parse
from shared.fleet_records import record_check
from shared.messages.codec import Unreadable, encode
from shared.messages.waker import REMOVED, MachineRecord

CONFIG = parse(
    """
[provider.ec2]
region = "r"
[[tier]]
name = "cloud"
provider = "ec2"
[[tier]]
name = "local"
provider = "process"
[[machine]]
id = "c1"
tier = "cloud"
instance = "i-1"
endpoint = "http://10.0.4.11:8000/"
[[machine]]
id = "l1"
tier = "local"
command = ["engine", "{port}"]
""",
    "test",
)
CHECK = record_check(CONFIG)


def record(machine: str, tier: str, endpoint: str | None) -> MachineRecord:
    return MachineRecord(
        machine=machine,
        tier=tier,
        state="ready",
        provider_state="running",
        endpoint=endpoint,
        generation=1,
        since=0.0,
        reason="",
    )


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("c1", record("c1", "cloud", "http://10.0.4.11:8000")),
        ("c1", record("c1", "cloud", None)),
        ("l1", record("l1", "local", "http://127.0.0.1:49152")),
        ("l1", record("l1", "local", "http://[::1]:49152")),
    ],
)
def test_a_record_that_agrees_is_taken(key: str, good: MachineRecord) -> None:
    CHECK(key, good)


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("c1", record("c1", "cloud", "http://10.0.4.12:8000")),
        ("c1", record("c1", "cloud", "http://10.0.4.11:8001")),
        ("c1", record("c1", "cloud", "https://10.0.4.11:8000")),
        ("c1", record("c1", "cloud", "http://127.0.0.1:8000")),
        ("c1", record("c1", "local", None)),
        ("c1", record("l1", "cloud", None)),
        ("x1", record("x1", "cloud", None)),
        *(
            ("l1", record("l1", "local", endpoint))
            for endpoint in (
                "http://203.0.113.5:8000",
                "http://127.0.0.1.example.org:80",
                "http://127.0.0.1:80@example.org:80",
                "http://user@127.0.0.1:80",
                "http://127.0.0.1:8000/v1",
                "http://127.0.0.1",
                "https://127.0.0.1:8000",
                "http://127.0.0.1:99999",
                "http://[::1:80",
                "",
            )
        ),
    ],
)
def test_a_record_that_differs_is_refused(key: str, bad: MachineRecord) -> None:
    with pytest.raises(Unreadable):
        CHECK(key, bad)


@given(endpoint=st.text() | st.from_regex(r"http://[a-z0-9.:@/\[\]]{0,40}", fullmatch=True))
def test_any_endpoint_is_loopback_or_refused(endpoint: str) -> None:
    try:
        CHECK("l1", record("l1", "local", endpoint))
    except Unreadable:
        return
    assert endpoint.startswith(("http://127.0.0.1:", "http://[::1]:", "http://localhost:"))
    assert endpoint.rpartition(":")[2].isdigit()


async def test_a_view_leaves_out_what_it_may_not_believe() -> None:
    bus = MemoryBus()
    view = View(FLEET, MachineRecord, check=CHECK)
    await view.start(bus)
    await bus.put(FLEET, machine_key("c1"), encode(record("c1", "cloud", "http://10.0.4.11:8000")))
    assert set(view) == {"c1"}
    await bus.put(FLEET, machine_key("c1"), encode(record("c1", "cloud", "http://203.0.113.5:80")))
    await bus.put(FLEET, machine_key("x1"), encode(record("x1", "cloud", None)))
    assert set(view) == set()
    await view.stop()


async def test_record_of_a_removed_machine_is_left_out_and_not_reported() -> None:
    bus = MemoryBus()
    view = View(FLEET, MachineRecord, check=CHECK)
    await view.start(bus)
    removed = msgspec.structs.replace(record("c1", "cloud", None), state="gone", alarm_reason=REMOVED)
    for name in ("c1", "x1"):  # one that this configuration still has, and one that it has not either
        await bus.put(FLEET, machine_key(name), encode(msgspec.structs.replace(removed, machine=name)))
    assert not view
    assert not bus.rejections.counts
    await bus.put(FLEET, machine_key("c1"), encode(record("c1", "cloud", None)))
    assert set(view) == {"c1"}
