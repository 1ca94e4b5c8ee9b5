"""What `spotinference doctor` makes of what it found: each link of the chain with its figures, and whether it holds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.messages.billing import DayReport
from shared.messages.invoices import SourceState
from shared.messages.meter import Gaps, Tokens
from shared.messages.meter_audit import Audit, MachineAudit
from spotinference.diagnostics import Diagnostic, note, ok, wrong

OLD_SECONDS = 300.0
"""Usage that waits longer than this in an outbox does not get to the ledger."""
SKEW_NOTE, SKEW_WRONG = 1.0, 5.0
"""Seconds between two clocks. The meter takes no event from further ahead than minutes."""
GAPS_SHOWN = 5


@dataclass(frozen=True)
class Link:
    """One thing that was looked at."""

    name: str
    diagnostic: Diagnostic
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outbox:
    """One gateway's, as its metrics have it."""

    where: str
    pending: int
    age: float


def engines(audit: Audit) -> Iterator[Link]:
    """Each machine's own count against the ledger's."""
    for m in audit.machines:
        figures = {
            "machine": m.machine,
            "state": m.state,
            "engine": m.engine,
            "probes": m.probes,
            "ledger": m.ledger,
            "read": m.read,
            "difference": m.difference,
            "requests": m.requests,
            "engine_requests": m.engine_requests,
            "generations": m.generations,
            "readings": m.readings,
            "resets": m.resets,
            "causes": [{"name": c.name, "tokens": c.tokens, "exact": c.exact, "words": c.words} for c in m.causes],
        }
        yield Link("engine", _engine(m), figures)
    if not audit.machines:
        yield Link("engine", ok(f"no machine did anything on {audit.day}"))
    tokens = sum(m.probes for m in audit.machines)
    yield Link("probes", ok(f"the waker's probes made engines work {tokens:,} tokens"), {"tokens": tokens})


def _engine(m: MachineAudit) -> Diagnostic:
    counted = "unknown" if m.engine is None else f"{m.engine:,}"
    text = f"{m.machine}: engine {counted}, probes {m.probes:,}, ledger {m.ledger:,} tokens: {m.words}"
    for cause in m.causes:
        if cause.name != "probes":
            text += f"; {'' if cause.exact else 'up to '}{cause.tokens:,} {cause.words}"
    match m.state:
        case "wrong":
            return wrong(text)
        case "unknown" | "open":
            return note(text)
        case "equal" | "explained":
            return ok(text)


def sources(audit: Audit) -> Iterator[Link]:
    """What each gateway's boot numbered against what the ledger has of it."""
    for s in audit.sources:
        figures = {"source": s.source, "first": s.first, "last": s.last, "kept": s.kept, "missing": s.missing}
        told = f"{s.source}: wrote {s.last - s.first + 1:,} events, {s.kept:,} are in the ledger"
        if s.quarantined:
            told += f", {s.quarantined:,} in quarantine"
        fix = "start that gateway again with its data directory, or `spotinference gaps` to see and give them up"
        found = wrong(f"{told}: {s.missing:,} are missing: {fix}") if s.missing > 0 else ok(told)
        yield Link("gateway", found, {**figures, "quarantined": s.quarantined})


def outboxes(found: Sequence[Outbox] | None) -> Iterator[Link]:
    """None: the gateways run elsewhere."""
    if found is None:
        yield Link(
            "outbox", note("no suite runs on this host: look at `spot_gateway_outbox_age_seconds` of each gateway")
        )
    for o in found or ():
        text = f"{o.where}: {o.pending:,} events not confirmed, the oldest {o.age:.0f} s old"
        fix = "does the meter run, and does the bus take messages? `usage_delayed` in the gateway's log says why"
        diagnostic = wrong(f"{text}: {fix}") if o.age > OLD_SECONDS else ok(text)
        yield Link("outbox", diagnostic, {"gateway": o.where, "pending": o.pending, "oldest_seconds": o.age})


def stream(before: int, after: int) -> Link:
    """The backlog twice, some seconds apart."""
    figures = {"backlog": after}
    if not after:
        return Link("stream", ok("the meter has read all of the stream"), figures)
    text = f"{after:,} messages are not in the ledger yet"
    if after < before:
        return Link("stream", note(f"{text}, and they get fewer"), figures)
    return Link(
        "stream", wrong(f"{text}, and they do not get fewer: `/readyz` and the log of the meter say why"), figures
    )


def ledger(audit: Audit, tokens: Tokens) -> Iterator[Link]:
    yield Link(
        "ledger",
        ok(f"{audit.events:,} events with {audit.tokens:,} tokens"),
        {"events": audit.events, "tokens": audit.tokens},
    )
    faults = (
        (
            "conflicts",
            audit.conflicts,
            "came under a known id with another payload: the first one counts; see `conflicts`",
        ),
        ("quarantine", audit.quarantined, "could not be counted and are kept: see `quarantine` for the reasons"),
    )
    for name, count, words in faults:
        diagnostic = wrong(f"{count:,} messages {words} in the ledger's database") if count else ok("none")
        yield Link(name, diagnostic, {"messages": count})
    names = audit.unknown_names
    text = f"{names:,} models or keys that nobody knows were counted: see `unknowns` in the ledger's database"
    yield Link("names", note(text) if names else ok("every model and key is known"), {"unknown": names})
    yield Link("sums", _sums(audit), {"state": audit.rollups})
    reasons = "; ".join(tokens.reasons) or "it is not over"
    diagnostic = ok("complete") if tokens.complete else note(f"not complete yet: {reasons}")
    yield Link("day", diagnostic, {"complete": tokens.complete, "final": audit.final, "reasons": list(tokens.reasons)})


def _sums(audit: Audit) -> Diagnostic:
    match audit.rollups:
        case "equal":
            return ok("the sums are those of the events, counted again")
        case "differ":
            fix = "somebody wrote to the database; the events are the truth: restore the ledger from its backup"
            return wrong(f"the sums are not those of the events: {fix}")
        case "unknown":
            return note("the events of that day are no longer kept: the sums cannot be counted again")


def gaps(found: Gaps) -> Link:
    figures = {"open": len(found.open), "given_up": len(found.lost)}
    if not found.open:
        return Link("gaps", ok(f"no number is missing; {len(found.lost)} ranges were given up"), figures)
    shown = ", ".join(f"{g.source} {g.first} to {g.last}" for g in found.open[:GAPS_SHOWN])
    more = f" and {len(found.open) - GAPS_SHOWN} more" if len(found.open) > GAPS_SHOWN else ""
    return Link("gaps", wrong(f"missing: {shown}{more}: start that gateway again, or `spotinference gaps`"), figures)


def marks(audit: Audit, told: Mapping[str, int]) -> Link:
    """What gateways go by when they forget usage; `told` was read before the audit was made."""
    high = sorted(s.source for s in audit.sources if told.get(s.source, 0) > s.mark)
    low = sorted(s.source for s in audit.sources if told.get(s.source, 0) < s.mark)
    figures = {"sources": len(audit.sources), "too_high": high, "behind": low}
    if high:
        fix = (
            "was its database restored from an older copy? What came in between is lost unless the stream still has it"
        )
        return Link(
            "marks", wrong(f"gateways were told of more than the ledger has, of {', '.join(high)}: {fix}"), figures
        )
    if low:
        return Link("marks", note(f"not told yet, of {', '.join(low)}: the meter does so within 10 s"), figures)
    return Link("marks", ok(f"{len(audit.sources)} gateways' boots know how far the ledger is"), figures)


def books(report: DayReport, tokens: Tokens) -> Link:
    served = tokens.served.prompt_tokens + tokens.served.completion_tokens
    figures = {"state": report.state, "revision": report.revision, "tokens": report.tokens, "served": served}
    if tokens.complete and report.tokens != served:
        text = f"the books divide by {report.tokens:,} tokens and the ledger served {served:,}"
        return Link(
            "books", wrong(f"{text}: `spotinference report` again; if it stays, look at the log of billing"), figures
        )
    if report.state is None:
        return Link("books", note(f"no figure: {report.reason}"), figures)
    return Link("books", ok(f"{report.state}, revision {report.revision}, of {report.tokens:,} tokens"), figures)


def invoices(sources: Sequence[SourceState]) -> Iterator[Link]:
    """Each source that billing fetches by itself."""
    for one in sources:
        figures = {"source": one.name, "looked_at": one.looked_at, "good_at": one.good_at, "reasons": one.reasons}
        diagnostic = ok(f"{one.name}: {one.deliveries} deliveries imported, all that is there")
        if one.looked_at is None:
            diagnostic = note(f"{one.name}: billing has not looked yet")
        elif one.reasons:
            diagnostic = wrong(
                f"{one.name}: {one.reasons[0]}: its figures are as they were; `spotinference invoice list`"
            )
        yield Link("invoices", diagnostic, figures)


def clocks(skews: Mapping[str, float]) -> Iterator[Link]:
    """Seconds by which each is ahead of this host."""
    for who, skew in sorted(skews.items()):
        text = f"{who} is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}"
        if abs(skew) > SKEW_WRONG:
            diagnostic = wrong(f"{text}: synchronise the clocks of its host and this one")
        else:
            diagnostic = note(text) if abs(skew) > SKEW_NOTE else ok(f"{who} agrees within {SKEW_NOTE:.0f} s")
        yield Link("clock", diagnostic, {"service": who, "ahead_seconds": round(skew, 3)})
    if not skews:
        yield Link("clock", note("no gateway was heard"))
