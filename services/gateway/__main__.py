"""`python -m services.gateway`."""

from services.gateway.wiring import opened
from shared.runtime.process import run

run("gateway", lambda config: config.gateway, opened)
