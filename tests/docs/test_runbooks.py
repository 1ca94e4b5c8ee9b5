"""`docs/runbooks` has a page per symptom, all of one form and all reachable from the list and from the alarms."""

import re

import pytest

from tests.deploy.rule_files import alerts
from tests.docs.pages import PAGES, Page, page, quoted

RUNBOOKS = [p for p in PAGES if p.path.parent.name == "runbooks" and p.path.name != "README.md"]


@pytest.mark.parametrize("runbook", RUNBOOKS, ids=lambda p: p.name)
def test_a_runbook_has_the_four_parts(runbook: Page) -> None:
    headings = re.findall(r"^## (.+)$", runbook.prose, re.MULTILINE)
    apart = ["What you see", "What it means", "What to do", "How you know it is over"]
    together = ["What you see", "What it means and what to do", "How you know it is over"]
    assert headings in (apart, together)


def test_the_list_has_every_runbook_once() -> None:
    assert sorted(page("docs/runbooks/README.md").links[1:]) == sorted(p.path.name for p in RUNBOOKS)


def test_every_metric_that_counts_something_wrong_has_an_alert() -> None:
    expressions = " ".join(alert.expr for alert in alerts())
    names = [quoted(cells[0])[0] for cells in page("docs/reference/metrics.md").rows("## Metrics")]
    wrong = [
        name
        for name in names
        if re.search("_(alarm|wrong|in_doubt|behind|gaps|untied_invoices|failing|missing|revived)$", name)
    ]
    assert len(wrong) > 5
    assert [name for name in wrong if name not in expressions] == []
