"""`python -m services.billing`."""

from services.billing.wiring import opened
from shared.runtime.process import run

run("billing", lambda config: config.billing, opened)
