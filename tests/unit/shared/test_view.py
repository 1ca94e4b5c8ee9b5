"""A bucket in memory: current, decoded, and rid of what is gone."""

import pytest

from shared.bus.memory import MemoryBus
from shared.bus.topology import KEYS
from shared.bus.view import View
from shared.messages.codec import encode
from shared.messages.keys import KeyRecord


def _key(name: str, created_at: float = 1.0) -> KeyRecord:
    return KeyRecord(id=name, name=name, created_at=created_at)


class Missing(MemoryBus):
    """Forgets a key without telling, as a server that lost its data does."""

    def lose(self, key: str) -> None:
        del self._bucket(KEYS)[key]


@pytest.fixture
def memory() -> Missing:
    return Missing()


@pytest.fixture
def changed() -> list[str]:
    return []


@pytest.fixture
async def view(memory: Missing, changed: list[str]) -> View[KeyRecord]:
    for name in ("a", "b"):
        await memory.put(KEYS, name, encode(_key(name)))
    view = View(KEYS, KeyRecord, changed.append)
    await view.start(memory)
    return view


async def test_it_is_the_bucket_when_it_has_started(view: View[KeyRecord], changed: list[str]) -> None:
    assert dict(view) == {"a": _key("a"), "b": _key("b")}
    assert (len(view), changed) == (2, ["a", "b"])


async def test_it_follows_and_names_the_revision(view: View[KeyRecord], memory: Missing) -> None:
    revision = await memory.put(KEYS, "a", encode(_key("a", 2.0)))
    assert (view["a"].created_at, view.revision("a")) == (2.0, revision)
    await memory.delete(KEYS, "a")
    assert "a" not in view


async def test_keys_that_vanished_meanwhile_are_gone_after_a_restart(
    view: View[KeyRecord], memory: Missing, changed: list[str]
) -> None:
    memory.lose("a")
    assert "a" in view
    changed.clear()
    memory.restart()
    assert set(view) == {"b"}
    assert sorted(changed) == ["a", "b"]


async def test_what_cannot_be_read_is_left_out_and_stops_nothing(view: View[KeyRecord], memory: Missing) -> None:
    await memory.put(KEYS, "bad", b"{")
    await memory.put(KEYS, "c", encode(_key("c")))
    assert set(view) == {"a", "b", "c"}


async def test_an_unreadable_value_does_not_leave_the_old_one_standing(view: View[KeyRecord], memory: Missing) -> None:
    await memory.put(KEYS, "a", b"{")
    assert "a" not in view


async def test_stopped_it_stays_as_it_is(view: View[KeyRecord], memory: Missing) -> None:
    await view.stop()
    await memory.put(KEYS, "c", encode(_key("c")))
    assert set(view) == {"a", "b"}
