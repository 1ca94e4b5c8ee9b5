"""`python -m services.meter`."""

from services import start  # noqa: F401 - for what it does
from services.meter.wiring import service
from shared.runtime.process import run

run("meter", lambda config: config.meter, service)
