"""`python -m services.waker`."""

from services.waker.wiring import opened
from shared.runtime.process import run

run("waker", lambda config: config.waker, opened)
