"""Runs a service that may open only so many files: `python -m tests.kit.service_with_file_limit FILES SERVICE …`."""

import resource
import runpy
import sys


def main() -> None:
    """Run the service with this hard limit, which it cannot raise again."""
    files, service = int(sys.argv[1]), sys.argv[2]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    sys.argv = [f"services.{service}", *sys.argv[3:]]
    runpy.run_module(f"services.{service}", run_name="__main__")


if __name__ == "__main__":
    main()
