"""`python -m services.site`."""

from services import start  # noqa: F401 - imported for its side effects
from services.site.wiring import service
from shared.runtime.process import run

run("site", lambda config: config.site, service)
