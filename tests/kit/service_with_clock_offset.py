"""Runs a service whose clock is wrong, in a process of its own.

Use: `python -m tests.kit.service_with_clock_offset SECONDS SERVICE …`.
"""

import runpy
import sys
import time


def main() -> None:
    """Run the service with `time.time` so many seconds ahead, for all that it imports from now on."""
    ahead, service = float(sys.argv[1]), sys.argv[2]
    true_time = time.time
    time.time = lambda: true_time() + ahead
    sys.argv = [f"services.{service}", *sys.argv[3:]]
    runpy.run_module(f"services.{service}", run_name="__main__")


if __name__ == "__main__":
    main()
