"""A day's revisions for tests: a figure, what it was made from, and how the books keep both."""

from decimal import Decimal
from typing import Any

import msgspec

from services.billing.core.revisions.charge_digest import SourceCharges
from services.billing.core.revisions.revision import FileInput, RevisionInputs, StoredRevision
from shared.messages.billing import DayReport, FigureState
from shared.messages.codec import decode, encode
from shared.messages.meter import TokenSums
from tests.unit.billing.report_builders import report

FILE = FileInput(source="cloud", file_name="bill.csv", sha256="0a", rows=3)
CHARGES = SourceCharges(source="cloud", sha256="c1", rows=3, spend=Decimal(100), tax=Decimal(0))
SETTINGS = {"price of tier A": "2.4", "machine list": "sha256:1", "direction weights": "input 1, output 4"}
INPUTS = RevisionInputs(
    over=True,
    files=(FILE,),
    charges=3,
    served=TokenSums(prompt_tokens=5),
    usage_sha256="u",
    busy_sha256="b",
    transitions_sha256="t",
    accruals_sha256="a",
    usage_complete=True,
    settings_sha256="s",
    sources=(CHARGES,),
    estimate=Decimal(0),
    settings=SETTINGS,
)


def figure(spend: str | None = "100", state: FigureState | None = "provisional", tokens: int = 5, **more: Any) -> Any:
    return report("2026-05-03", spend, tokens, **{"state": state, "revision": 0, "charges": 3, **more})


def inputs(**changed: Any) -> RevisionInputs:
    return msgspec.structs.replace(INPUTS, **changed)


def charges(spend: str, rows: int = 3, **changed: Any) -> SourceCharges:
    return msgspec.structs.replace(CHARGES, sha256=f"{spend} {rows}", spend=Decimal(spend), rows=rows, **changed)


def stored(report: DayReport, inputs: RevisionInputs = INPUTS) -> StoredRevision:
    return StoredRevision(report, inputs, decode(encode(report), dict[str, Any]))


FIRST = stored(figure(revision=1))
FINAL = stored(figure(revision=1, state="final"))
