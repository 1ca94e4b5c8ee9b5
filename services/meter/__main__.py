"""`python -m services.meter`."""

from services.meter.wiring import opened
from shared.runtime.process import run

run("meter", lambda config: config.meter, opened)
