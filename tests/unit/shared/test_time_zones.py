"""Schedules name time zones, and a slim image has no database of them."""

import os
import subprocess
import sys


def test_time_zones_are_known_without_the_systems_database() -> None:
    program = "from shared.weekly_window import parse_window; parse_window('mon-fri 09:00-18:00 Europe/Berlin')"
    environment = os.environ | {"PYTHONTZPATH": ""}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
