"""Prints the report of a machine's check."""

from spotinference.check.machine import MachineReport
from spotinference.diagnostics import Diagnostic, note, ok, wrong
from spotinference.tables import figure_table
from spotinference.terminal import echo_json, print_line, print_table


def print_report(report: MachineReport, *, as_json: bool) -> None:
    """Print one JSON object, or a table of the phases and a line for each finding."""
    if as_json:
        echo_json(report)
        return
    if report.phases:
        print_table(
            figure_table(
                ("phase", "seconds", "limit", "of budget"),
                [
                    (
                        phase.phase if phase.done else f"{phase.phase} (given up)",
                        f"{phase.seconds:.1f}",
                        f"{phase.limit_seconds:.0f}",
                        f"{phase.seconds / report.budget_seconds:.0%}",
                    )
                    for phase in report.phases
                ],
            )
        )
    for diagnostic in _diagnostics(report):
        print_line(f"{diagnostic.level:<5} {diagnostic.text}", err=diagnostic.level == "wrong")


def _diagnostics(report: MachineReport) -> list[Diagnostic]:
    who = f"machine {report.machine}"
    lines = []
    if report.ready and report.seconds is not None and report.seconds <= report.budget_seconds:
        lines.append(ok(f"{who}: ready after {report.seconds:.1f} s of {report.budget_seconds:.0f} s"))
    if report.token_seconds is not None:
        lines.append(ok(f"{who}: a token of {report.model} through the gateway in {report.token_seconds:.3f} s"))
    if report.sleep_seconds is not None:
        lines.append(ok(f"{who}: asleep again after {report.sleep_seconds:.1f} s"))
    lines += [note(f"{who}: {text}") for text in report.notes]
    return lines + [wrong(f"{who}: {text}") for text in report.faults]
