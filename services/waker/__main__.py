"""`python -m services.waker`."""

from services import start  # noqa: F401 - for what it does
from services.waker.wiring import service
from shared.runtime.process import run

run("waker", lambda config: config.waker, service)
