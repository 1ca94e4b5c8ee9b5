"""What a PromQL expression refers to: its selectors, and the labels that it groups and joins by."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import promql_parser

TARGET_LABELS = frozenset({"namespace", "pod", "job", "instance", "worker"})
"""Which a scrape adds, or the gateway's parent process."""
FOREIGN = {
    name: TARGET_LABELS | labels
    for names, labels in (
        (
            ("kube_pod_container_status_last_terminated_exitcode", "kube_pod_container_status_restarts_total"),
            {"container"},
        ),
        (("kube_cronjob_status_last_successful_time", "kube_cronjob_created"), {"cronjob"}),
        (("kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes"), {"persistentvolumeclaim"}),
        (("node_filesystem_avail_bytes", "node_filesystem_size_bytes"), {"mountpoint"}),
    )
    for name in names
}
"""Metrics of kube-state-metrics, the kubelet and node_exporter, with their labels as far as they are used here."""


@dataclass(frozen=True)
class Selector:
    metric: str
    matchers: tuple[tuple[str, str], ...]
    """Label and value; a value may be an alternative of names, `a|b`."""


class Expression:
    """A parsed expression; `ValueError` if it is none."""

    def __init__(self, text: str) -> None:
        self._root = promql_parser.parse(text)

    @property
    def selectors(self) -> list[Selector]:
        return [
            Selector(node.name or "", tuple((m.name, m.value) for m in node.matchers.matchers))
            for node in _walk(self._root)
            if isinstance(node, promql_parser.VectorSelector)
        ]

    @property
    def grouping(self) -> set[str]:
        """The labels of `by`, `without`, `on` and `ignoring`."""
        named: set[str] = set()
        for node in _walk(self._root):
            modifier = getattr(node, "modifier", None)
            for holder in (modifier, getattr(modifier, "matching", None)):
                named |= set(getattr(holder, "labels", None) or ())
        return named

    def faults(self, known: Mapping[str, frozenset[str]]) -> Iterator[str]:
        """Yield each metric and label that does not exist; `known` has the labels of each metric."""
        every = {**{name: labels | TARGET_LABELS for name, labels in known.items()}, **FOREIGN}
        used: set[str] = set()
        for selector in self.selectors:
            labels = every.get(selector.metric)
            if labels is None:
                yield f"no metric {selector.metric}"
                continue
            used |= labels
            yield from (f"{selector.metric} has no label {name}" for name, _ in selector.matchers if name not in labels)
        yield from (f"grouped by {label}, which no metric of it has" for label in sorted(self.grouping - used))


def _walk(node: Any) -> Iterator[Any]:
    if node is None or isinstance(node, (str, int, float)):
        return
    yield node
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        yield from _walk(getattr(node, name, None))
    for argument in getattr(node, "args", None) or ():
        yield from _walk(argument)
