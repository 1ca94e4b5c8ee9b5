"""Bytes that are held, by owner."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.buffer_memory import (
    ANONYMOUS,
    BufferedBytes,
    BufferMemory,
    default_max_bytes,
    default_max_bytes_per_owner,
)

OWNERS = (ANONYMOUS, "a", "b", "c")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["grow", "move", "release"]), st.integers(0, 5), st.integers(0, 40), st.sampled_from(OWNERS)
    )
)


@given(STEPS)
def test_no_owner_and_no_sum_passes_its_bound_and_nothing_is_lost(steps: list[tuple[str, int, int, str]]) -> None:
    memory = BufferMemory(100, 40)
    held = [BufferedBytes(memory) for _ in range(6)]
    for step, index, size, owner in steps:
        one = held[index]
        before = (one.size_bytes, one.owner, memory.used)
        if step == "grow":
            fits = memory.used_by(one.owner) + size <= 40 and memory.used + size <= 100
            assert one.grow(size) == (fits or one.owner == ANONYMOUS)
        elif step == "move":
            if not one.move_to(owner):
                assert (one.size_bytes, one.owner, memory.used) == before
        else:
            one.release()
        by_owner = {name: sum(each.size_bytes for each in held if each.owner == name) for name in OWNERS}
        assert {name: memory.used_by(name) for name in OWNERS} == by_owner
        assert memory.used == sum(by_owner.values())
        assert memory.is_crowded == (by_owner[ANONYMOUS] > 40)
        assert max(size for name, size in by_owner.items() if name != ANONYMOUS) <= 40
        assert memory.used - by_owner[ANONYMOUS] <= 100
    for each in held:
        each.release()
    assert memory.used == 0


def test_what_finds_no_room_elsewhere_stays_counted_where_it_is() -> None:
    memory = BufferMemory(100, 40)
    nobody, one = BufferedBytes(memory), BufferedBytes(memory, "a")
    assert one.grow(37)
    assert nobody.grow(64), "what is nobody's yet is never refused"
    assert not one.move_to("b")
    assert (memory.used, memory.used_by("a")) == (101, 37)
    assert one.move_to("a")
    one.release()
    assert memory.used == 64


def test_one_owner_leaves_room_for_the_others() -> None:
    memory = BufferMemory(100, 25)
    greedy = BufferedBytes(memory, "a")
    while greedy.grow(5):
        pass
    assert greedy.size_bytes == 25
    assert all(BufferedBytes(memory, owner).grow(25) for owner in ("b", "c", "d"))
    assert not BufferedBytes(memory, "e").grow(1)


@pytest.mark.parametrize(
    ("memory_limit", "processes", "expected"),
    [
        (None, 4, 1024),
        (512, 1, 208),
        (512, 2, 80),
        (512, 8, 32),
        (64, 1, 32),
        (1 << 20, 1, 1024),
    ],
)
def test_the_default_follows_the_memory_limit(memory_limit: int | None, processes: int, expected: int) -> None:
    limit = None if memory_limit is None else memory_limit << 20
    assert default_max_bytes(limit, processes, least=32 << 20) == expected << 20


@pytest.mark.parametrize(("total", "expected"), [(4096, 256), (1024, 256), (208, 52), (64, 32)])
def test_one_owner_has_a_quarter_by_default(total: int, expected: int) -> None:
    assert default_max_bytes_per_owner(total << 20, least=32 << 20) == expected << 20
