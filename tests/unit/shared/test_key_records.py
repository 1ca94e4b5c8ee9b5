"""Copies of keys' records merge in any order, and nothing that has ended comes back."""

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from shared.bus.memory import MemoryBus
from shared.bus.topology import KEYS
from shared.key_records import SavedKey, merge_copies, merge_keys
from shared.messages.codec import decode, encode
from shared.messages.keys import KeyRecord, digest

TIMES = st.none() | st.integers(1, 3).map(float)
DIGESTS = {f"{key}-{secret}": digest(f"sk-{key}-{secret}") for key in ("k1", "k2") for secret in "ab"}


def saved(secret: str, **fields: float | None) -> SavedKey:
    record = KeyRecord(id=secret[:2], name="n", created_at=0.0, **fields)  # type: ignore[arg-type]  # times
    return SavedKey(digest=DIGESTS[secret], record=record)


@given(st.lists(st.tuples(st.sampled_from(sorted(DIGESTS)), TIMES, TIMES), max_size=6))
def test_merge_keeps_every_end_in_any_order(copies: list[tuple[str, float | None, float | None]]) -> None:
    records = [saved(secret, expires_at=expires, revoked_at=revoked) for secret, expires, revoked in copies]
    merged = merge_copies(records, ())
    assert merge_copies((), reversed(records)) == merged
    for record in records:
        holds = merged[record.digest]
        assert holds.revoked_at is not None or not any(
            other.record.revoked_at for other in records if other.record.id == record.record.id
        )
        if record.record.expires_at is not None:
            assert holds.expires_at is not None
            assert holds.expires_at <= record.record.expires_at


def test_revoking_one_secret_revokes_the_key() -> None:
    merged = merge_copies([saved("k1-a"), saved("k2-a")], [saved("k1-b", revoked_at=5.0)])
    assert [merged[DIGESTS[secret]].revoked_at for secret in ("k1-a", "k1-b", "k2-a")] == [5.0, 5.0, None]


def test_replaced_secret_keeps_its_end_against_an_older_record() -> None:
    older, replaced = saved("k1-a"), saved("k1-a", expires_at=9.0, replaced_at=1.0)
    for first, second in permutations((older, replaced)):
        assert merge_copies([first], [second]) == {replaced.digest: replaced.record}


async def test_merge_changes_only_what_differs_and_can_be_repeated() -> None:
    bus = MemoryBus()
    await bus.create(KEYS, DIGESTS["k1-a"], encode(saved("k1-a").record))
    await bus.create(KEYS, DIGESTS["k1-b"], b"something else")
    await bus.create(KEYS, DIGESTS["k2-b"], encode(saved("k2-b", revoked_at=1.0).record))
    copy = [saved("k1-a", revoked_at=2.0), saved("k1-b"), saved("k2-a"), saved("k2-b")]
    merged = await merge_keys(bus, copy)
    assert (merged.returned, merged.ended) == (2, 1)
    on_bus = {key: decode(entry.value, KeyRecord) for key, entry in (await bus.entries(KEYS)).items()}
    assert {key: on_bus[of].revoked_at for key, of in DIGESTS.items()} == {
        "k1-a": 2.0,
        "k1-b": 2.0,
        "k2-a": 1.0,
        "k2-b": 1.0,
    }
    assert (await merge_keys(bus, copy)).changed == 0
