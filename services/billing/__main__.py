"""`python -m services.billing`."""

from services import start  # noqa: F401 - for what it does
from services.billing.wiring import service
from shared.runtime.process import run

run("billing", lambda config: config.billing, service)
