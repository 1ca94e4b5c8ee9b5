"""The links of the chain that the doctor checks: each with its figures and its diagnostic."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.messages.billing import DayReport
from shared.messages.invoices import SourceState
from shared.messages.meter import Gaps, KeyComparison, Tokens
from shared.messages.meter_audit import Audit, MachineAudit
from spotinference.diagnostics import Diagnostic, note, ok, wrong

OLD_SECONDS = 300.0
"""Usage that has waited longer than this in an outbox is not reaching the ledger."""
SKEW_NOTE, SKEW_WRONG = 1.0, 5.0
"""Seconds between two clocks. The meter rejects events that are more than minutes in the future."""
GAPS_SHOWN = 5


@dataclass(frozen=True)
class Link:
    """One link of the chain."""

    name: str
    diagnostic: Diagnostic
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outbox:
    """A gateway's outbox, as its metrics show it."""

    gateway_url: str
    pending: int
    age_s: float


def engines(audit: Audit) -> Iterator[Link]:
    """Compare each engine's own count with the ledger's."""
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
        yield Link("engine", ok(f"no machine was used on {audit.day}"))
    tokens = sum(m.probes for m in audit.machines)
    yield Link("probes", ok(f"the waker's probes used {tokens:,} tokens"), {"tokens": tokens})


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
    """Compare the events that each start of a gateway numbered with those in the ledger."""
    for s in audit.sources:
        figures = {"source": s.source, "first": s.first, "last": s.last, "kept": s.kept, "missing": s.missing}
        text = f"{s.source}: wrote {s.last - s.first + 1:,} events, {s.kept:,} are in the ledger"
        if s.quarantined:
            text += f", {s.quarantined:,} in quarantine"
        fix = "start that gateway again with its data directory, or see `spotinference gaps`"
        diagnostic = wrong(f"{text}: {s.missing:,} are missing: {fix}") if s.missing > 0 else ok(text)
        yield Link("gateway", diagnostic, {**figures, "quarantined": s.quarantined})


def outboxes(of_gateways: Sequence[Outbox] | None) -> Iterator[Link]:
    """Check the outboxes of this host's gateways; None means that the gateways run elsewhere."""
    if of_gateways is None:
        yield Link(
            "outbox",
            note("no gateway runs on this host: see the metric `spot_gateway_outbox_age_seconds` of each gateway"),
        )
    for o in of_gateways or ():
        text = f"{o.gateway_url}: {o.pending:,} events unconfirmed, the oldest {o.age_s:.0f} s old"
        fix = "is the meter running, and does the bus accept messages? See `usage_delayed` in the gateway's log"
        diagnostic = wrong(f"{text}: {fix}") if o.age_s > OLD_SECONDS else ok(text)
        yield Link("outbox", diagnostic, {"gateway": o.gateway_url, "pending": o.pending, "oldest_seconds": o.age_s})


def keys(comparison: KeyComparison, forgotten: int) -> Link:
    """Compare the keys on the bus with the ledger's copy.

    `forgotten`: revoked keys that this host's gateway remembers, and that the bus does not show as revoked.
    """
    c = comparison
    diagnostic = ok(f"the bus has every key of the ledger's copy, and its {c.revocations:,} revocations")
    if c.missing or c.revived or forgotten:
        diagnostic = wrong(
            f"the bus lacks {c.missing:,} keys and shows {c.revived:,} as usable that have ended; this host's gateway "
            f"remembers {forgotten:,} revocations that the bus lacks: run `spotinference setup`"
        )
    figures = {"revocations": c.revocations, "missing": c.missing, "revived": c.revived, "forgotten": forgotten}
    return Link("keys", diagnostic, figures)


def stream(before: int, after: int) -> Link:
    """Compare the backlog of the usage stream at two times, some seconds apart."""
    figures = {"backlog": after}
    if not after:
        return Link("stream", ok("the meter has read the whole stream"), figures)
    text = f"{after:,} messages have not reached the ledger yet"
    if after < before:
        return Link("stream", note(f"{text}, and they are getting fewer"), figures)
    return Link("stream", wrong(f"{text}, and they are not getting fewer: see the meter's `/readyz` and log"), figures)


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
            "repeated a known id with another payload; the first one counts: see `conflicts`",
        ),
        ("quarantine", audit.quarantined, "could not be counted and were kept: see `quarantine` for the reasons"),
    )
    for name, count, words in faults:
        diagnostic = wrong(f"{count:,} messages {words} in the ledger's database") if count else ok("none")
        yield Link(name, diagnostic, {"messages": count})
    names = audit.unknown_names
    text = f"{names:,} unknown models or keys were counted: see `unknowns` in the ledger's database"
    yield Link("names", note(text) if names else ok("every model and key is known"), {"unknown": names})
    yield Link("sums", _sums(audit), {"state": audit.rollups})
    reasons = "; ".join(tokens.reasons) or "the day is not over"
    diagnostic = ok("complete") if tokens.complete else note(f"not complete yet: {reasons}")
    yield Link("day", diagnostic, {"complete": tokens.complete, "final": audit.final, "reasons": list(tokens.reasons)})


def _sums(audit: Audit) -> Diagnostic:
    match audit.rollups:
        case "equal":
            return ok("the sums match the events, counted again")
        case "differ":
            fix = "the database was changed; the events are correct: restore the ledger from its backup"
            return wrong(f"the sums do not match the events: {fix}")
        case "unknown":
            return note("the events of that day are no longer kept, so the sums cannot be verified")


def gaps(reply: Gaps) -> Link:
    """Check that no usage event is missing."""
    figures = {"open": len(reply.open), "given_up": len(reply.lost), "missing": reply.missing}
    if not reply.open and reply.missing:
        return Link("gaps", note(f"gateways wrote {reply.missing:,} events that are not in the ledger yet"), figures)
    if not reply.open:
        return Link("gaps", ok(f"no event is missing; {len(reply.lost)} ranges were declared lost"), figures)
    shown = ", ".join(f"{g.source} {g.first} to {g.last}" for g in reply.open[:GAPS_SHOWN])
    more = f" and {len(reply.open) - GAPS_SHOWN} more" if len(reply.open) > GAPS_SHOWN else ""
    return Link(
        "gaps", wrong(f"missing: {shown}{more}: start that gateway again, or see `spotinference gaps`"), figures
    )


def marks(audit: Audit, published: Mapping[str, int]) -> Link:
    """Check what the gateways go by when they delete usage; `published` was read before the audit."""
    high = sorted(s.source for s in audit.sources if published.get(s.source, 0) > s.mark)
    low = sorted(s.source for s in audit.sources if published.get(s.source, 0) < s.mark)
    figures = {"sources": len(audit.sources), "too_high": high, "behind": low}
    if high:
        fix = "was its database restored from an older copy? What came in between is lost unless the stream has it"
        return Link(
            "marks",
            wrong(f"more was confirmed to the gateways than the ledger has, of {', '.join(high)}: {fix}"),
            figures,
        )
    if low:
        return Link(
            "marks",
            note(f"not yet confirmed to the gateways, of {', '.join(low)}: the meter does so within 10 s"),
            figures,
        )
    return Link("marks", ok(f"{len(audit.sources)} sources have the ledger's confirmation"), figures)


def books(report: DayReport, tokens: Tokens) -> Link:
    served = tokens.served.prompt_tokens + tokens.served.completion_tokens
    figures = {"state": report.state, "revision": report.revision, "tokens": report.tokens, "served": served}
    if tokens.complete and report.tokens != served:
        text = f"the report divides by {report.tokens:,} tokens, but the ledger has {served:,} served tokens"
        return Link(
            "books", wrong(f"{text}: run `spotinference report` again; if it persists, see billing's log"), figures
        )
    if report.state is None:
        return Link("books", note(f"no figure: {report.reason}"), figures)
    return Link("books", ok(f"{report.state}, revision {report.revision}, of {report.tokens:,} tokens"), figures)


def invoices(sources: Sequence[SourceState]) -> Iterator[Link]:
    """Check each source that billing fetches."""
    for one in sources:
        figures = {"source": one.name, "looked_at": one.looked_at, "good_at": one.good_at, "reasons": one.reasons}
        diagnostic = ok(f"{one.name}: all {one.deliveries} deliveries are imported")
        if one.looked_at is None:
            diagnostic = note(f"{one.name}: billing has not checked it yet")
        elif one.reasons:
            diagnostic = wrong(
                f"{one.name}: {one.reasons[0]}: its figures are unchanged; see `spotinference invoice list`"
            )
        yield Link("invoices", diagnostic, figures)


def clocks(skews: Mapping[str, float]) -> Iterator[Link]:
    """Check by how many seconds each clock is ahead of this host's."""
    for who, skew in sorted(skews.items()):
        text = f"{who} is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}"
        if abs(skew) > SKEW_WRONG:
            diagnostic = wrong(f"{text}: synchronize the clocks of its host and this one")
        else:
            diagnostic = note(text) if abs(skew) > SKEW_NOTE else ok(f"{who} agrees within {SKEW_NOTE:.0f} s")
        yield Link("clock", diagnostic, {"service": who, "ahead_seconds": round(skew, 3)})
    if not skews:
        yield Link("clock", note("no gateway reported"))
