"""`python -m services.gateway`."""

from services import start  # noqa: F401 - imported for its side effects
from services.gateway.wiring import service
from shared.runtime.process import run

run("gateway", lambda config: config.gateway, service, bus_wait_s=3.0)
