"""`make proof SEED=7 SECONDS=600`: run the proof for a given time, on both databases in turn."""

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from tests.proof.run import proof


def main() -> int:
    """Return 1 if a number is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--seconds", type=float, default=600.0, help="in total, for both databases")
    arguments = parser.parse_args()
    bad = False
    for postgres in (False, True):
        print("PostgreSQL" if postgres else "SQLite")
        with tempfile.TemporaryDirectory(prefix="spot-proof-") as folder:
            run = proof(
                Path(folder), arguments.seed, arguments.seconds / 2, postgres=postgres, gateways=True, report=report
            )
            verdict = asyncio.run(run)
        print(verdict)
        for fault in verdict.faults:
            print(f"WRONG {fault}")
        bad = bad or bool(verdict.faults)
    return int(bad)


def report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
