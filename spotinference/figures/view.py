"""Latency and throughput as a table."""

from shared.messages.meter_figures import FiguresRow, Pace

NAMES = {
    "ttft": "time to first token, ms",
    "ttft_warm": "the same without a wake, ms",
    "ttft_cold": "the same with a wake, s",
    "tpot": "time per token, ms",
    "stream_rate": "tokens/s per stream",
    "wake_wait": "wait for a wake, s",
    "overhead": "gateway overhead, ms",
}
"""The columns, in the order of the table."""
MILLISECONDS = ("ttft", "ttft_warm", "tpot", "overhead")


def figure_lines(row: FiguresRow) -> list[list[str]]:
    lines = []
    for metric, name in NAMES.items():
        if spread := row.measures.get(metric):
            scale = 1000.0 if metric in MILLISECONDS else 1.0
            values = (_cell(value * scale) for value in (spread.p50, spread.p95, spread.p99))
            lines.append([name, f"{spread.count:,} requests", *values])
    for name, pace in (("output tokens/s, total", row.output), ("tokens/s, total", row.total)):
        if pace:
            lines.append([name, f"{pace.minutes:,} minutes", *_pace_cells(pace)])
    return lines


def _pace_cells(pace: Pace) -> list[str]:
    return [_cell(pace.p50), _cell(pace.p95), f"peak {_cell(pace.peak)}"]


def _cell(value: float) -> str:
    """Format a number with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
