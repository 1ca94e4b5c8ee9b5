"""Writes what is made from code: the dashboards' JSON, and the alerts as objects for the Prometheus operator."""

from pathlib import Path

from deploy.observability.boards import BOARDS

ROOT = Path(__file__).parent
NOTE = "# Made from rules/*.yml by `make observability`: change those.\n"
HEADER = """apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: spotinference-{name}
spec:
"""


def rendered() -> dict[Path, str]:
    """Return the content of every file that is made here."""
    files = {ROOT / "dashboards" / f"{name}.json": board.render() for name, board in BOARDS.items()}
    return {**files, ROOT / "prometheusrules.yaml": NOTE + "---\n".join(_rule_objects())}


def _rule_objects() -> list[str]:
    return [_rule_object(path) for path in sorted((ROOT / "rules").glob("*.yml"))]


def _rule_object(path: Path) -> str:
    lines = path.read_text("utf-8").splitlines(keepends=True)
    return HEADER.format(name=path.stem) + "".join(f"  {line}" if line.strip() else line for line in lines)


if __name__ == "__main__":
    for file, text in rendered().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
