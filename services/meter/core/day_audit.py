"""The audit of a whole day, from what the ledger has of it."""

from dataclasses import dataclass, replace

import msgspec

from services.meter.core.day import Day
from services.meter.core.machine_audit import SETTLED_SECONDS, MachineDay, audit_machine
from shared.messages.meter import Tokens
from shared.messages.meter_audit import Audit, SourceAudit


@dataclass(frozen=True, kw_only=True)
class LedgerDay:
    """What the ledger has of a day. If not `events_kept`, the events are sealed, and nothing is compared."""

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
    """Audit a day. `tokens`: the ledger's answer about it; `backlog`: messages of the stream not in the ledger yet."""
    machines = tuple(
        audit_machine(replace(m, is_settled=tokens.complete if now >= day.end else backlog == 0 and _is_quiet(m, now)))
        for m in facts.machines
    )
    result = Audit(
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
    return msgspec.structs.replace(result, final=result.final and not list_faults(result))


def _is_quiet(machine: MachineDay, now: float) -> bool:
    """Whether the day's counts can be compared before it is over."""
    return all(d.running == 0 and now - d.last_at >= SETTLED_SECONDS for d in machine.days)


def list_faults(result: Audit) -> list[str]:
    """Return what is wrong with a day, a line each."""
    lines = [f"machine {m.machine}: {m.words}" for m in result.machines if m.state == "wrong"]
    lines += [
        f"source {s.source}: {s.missing} of its events {s.first} to {s.last} are not in the ledger"
        for s in result.sources
        if s.missing > 0
    ]
    if result.rollups == "differ":
        lines.append("the rollups differ from the sums of the events")
    return lines
