"""An entry of the journal counts only under the subject that its writer alone may publish."""

from decimal import Decimal

import pytest

from shared.bus.subjects import budget_journal, journal
from shared.journal_entries import decode_entry
from shared.messages.budget import GateTurned
from shared.messages.codec import Unreadable, encode
from shared.messages.waker import CommandIssued


@pytest.mark.parametrize("machine", ["m1", "a b"])
def test_an_entry_is_decoded_under_its_own_subject(machine: str) -> None:
    entry = CommandIssued(at=1.0, machine=machine, order="cordon", by="alice")
    assert decode_entry(journal(machine), encode(entry)) == entry


@pytest.mark.parametrize("subject", [journal("m2"), budget_journal("fleet"), budget_journal("tier.m1")])
def test_an_entry_is_rejected_under_another_subject(subject: str) -> None:
    entry = CommandIssued(at=1.0, machine="m1", order="cordon", by="alice")
    with pytest.raises(Unreadable, match="subject"):
        decode_entry(subject, encode(entry))


def test_a_gates_change_is_rejected_under_a_machines_subject() -> None:
    turned = GateTurned(at=1.0, scope="fleet", open=True, reason="", spend=None, limit=Decimal(1), by="alice")
    assert decode_entry(budget_journal("fleet"), encode(turned)) == turned
    with pytest.raises(Unreadable, match="subject"):
        decode_entry(journal("fleet"), encode(turned))


def test_an_entry_without_a_name_is_rejected() -> None:
    entry = CommandIssued(at=1.0, machine="", order="cordon", by="alice")
    with pytest.raises(Unreadable, match="subject"):
        decode_entry("fleet.journal.", encode(entry))
