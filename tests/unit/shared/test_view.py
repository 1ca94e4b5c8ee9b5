"""A bucket in memory: current, decoded, and rid of what is gone."""

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from shared.bus.memory import MemoryBus
from shared.bus.topology import KEYS
from shared.bus.view import View
from shared.messages.codec import Unreadable, encode
from shared.messages.keys import KeyRecord
from shared.runtime import logs


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


@given(st.dictionaries(st.text(min_size=1, max_size=12) | st.from_regex(r"[=A-F0-9.]{1,8}"), st.binary(max_size=30)))
async def test_any_entries_leave_the_good_ones_known(entries: dict[str, bytes]) -> None:
    memory = MemoryBus()
    for key, value in entries.items():
        await memory.put(KEYS, key, value)
    await memory.put(KEYS, "good", encode(_key("good")))
    view = View(KEYS, KeyRecord)
    await view.start(memory)
    assert dict(view) == {"good": _key("good")}
    assert memory.rejections.counts["keys"] == len(set(entries) - {"good"})
    await memory.delete(KEYS, "good")
    assert not view


async def test_an_entry_that_its_reader_cannot_take_ends_no_watch(memory: Missing) -> None:
    def on_change(key: str) -> None:
        if key == "poison":
            raise ZeroDivisionError

    view = View(KEYS, KeyRecord, on_change)
    await view.start(memory)
    for name in ("poison", "a"):
        await memory.put(KEYS, name, encode(_key(name)))
    assert set(view) == {"poison", "a"}
    assert memory.rejections.counts == {"keys": 1}


async def test_the_log_names_the_entry_that_cannot_be_read(view: View[KeyRecord], memory: Missing) -> None:
    with structlog.testing.capture_logs() as lines:
        for key in ("=FF", "c"):
            await memory.put(KEYS, key, b"nonsense")
    assert [line["entry"] for line in lines] == ["=FF", "c"]
    assert not any(line.keys() & logs.REDACTED for line in lines)
    assert set(view) == {"a", "b"}


async def test_a_changed_check_is_applied_to_what_is_there_and_to_what_it_refused(memory: Missing) -> None:
    accepted = {"a"}
    changed: list[str] = []

    def check(key: str, _record: KeyRecord) -> None:
        if key not in accepted:
            raise Unreadable("not yet")

    view = View(KEYS, KeyRecord, changed.append, check=check)
    await view.start(memory)
    for name in ("a", "b", "c"):
        await memory.put(KEYS, name, encode(_key(name)))
    assert list(view) == ["a"]
    await memory.delete(KEYS, "c")
    accepted = {"b", "c"}
    changed.clear()
    view.recheck()
    assert (dict(view), changed) == ({"b": _key("b")}, ["a", "b"])
    assert (view.revision("b"), view.age("b") < 60) == (2, True)
    accepted = {"a"}
    view.recheck()
    assert dict(view) == {"a": _key("a")}
