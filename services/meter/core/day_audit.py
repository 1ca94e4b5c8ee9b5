"""A whole day's audit, from what the ledger has of it."""

from dataclasses import dataclass, replace

import msgspec

from services.meter.core.day import Day
from services.meter.core.machine_audit import SETTLED_SECONDS, MachineDay, audit_machine
from shared.messages.meter import Tokens
from shared.messages.meter_audit import Audit, SourceAudit


@dataclass(frozen=True, kw_only=True)
class LedgerDay:
    """`events_kept` False: the events are no longer there, and nothing is compared."""

    events_kept: bool
    events: int
    tokens: int
    machines: tuple[MachineDay, ...]
    sources: tuple[SourceAudit, ...]
    rollups_equal: bool
    conflicts: int
    quarantined: int
    unknown_names: int


def audit_day(day: Day, facts: LedgerDay, tokens: Tokens, *, now: float, backlog: int) -> Audit:
    """`tokens` is the ledger's answer about the day, `backlog` what the stream has beyond it."""
    machines = tuple(
        audit_machine(replace(m, judged=tokens.complete if now >= day.end else backlog == 0 and _quiet(m, now)))
        for m in facts.machines
    )
    found = Audit(
        day=day.name,
        at=now,
        final=tokens.complete and facts.events_kept and all(m.state != "open" for m in machines),
        complete=tokens.complete,
        events=facts.events,
        tokens=facts.tokens,
        machines=machines,
        sources=facts.sources,
        rollups="unknown" if not facts.events_kept else "equal" if facts.rollups_equal else "differ",
        conflicts=facts.conflicts,
        quarantined=facts.quarantined,
        open_gaps=tokens.open_gaps,
        unknown_names=facts.unknown_names,
    )
    return msgspec.structs.replace(found, final=found.final and not list_faults(found))


def _quiet(machine: MachineDay, now: float) -> bool:
    """Whether the day's counts can be compared while it goes on."""
    return all(d.running == 0 and now - d.last_at >= SETTLED_SECONDS for d in machine.days)


def list_faults(found: Audit) -> list[str]:
    """What is wrong with a day, a line each."""
    lines = [f"machine {m.machine}: {m.words}" for m in found.machines if m.state == "wrong"]
    lines += [
        f"source {s.source}: {s.missing} of its events {s.first} to {s.last} are not in the ledger"
        for s in found.sources
        if s.missing > 0
    ]
    if found.rollups == "differ":
        lines.append("the sums are not those of the events")
    return lines
