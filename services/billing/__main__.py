"""`python -m services.billing`."""

from services import start  # noqa: F401 - for what it does
from services.billing.wiring import opened
from shared.runtime.process import run

run("billing", lambda config: config.billing, opened)
