"""Imported first by each service's `__main__`: it makes the imports that follow a fifth cheaper."""

import gc

from shared.blocked_imports import import_without

# Importing makes objects and hardly any garbage, and every collection looks at all of them: `run` turns it on again.
gc.disable()
# It would load rich to show tracebacks in color: our logs are JSON.
import_without("rich", "structlog")
