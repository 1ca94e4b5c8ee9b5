"""The templates of the site."""

import py_compile
from pathlib import Path

from services.site.adapters.rendering import Renderer
from shared.report_forms import words


def test_templates_load_beside_compiled_modules() -> None:
    """Images compile every module, and so does a first start."""
    py_compile.compile(str(Path(words.__file__)), doraise=True)
    assert Renderer(title="a site", nav=()).assets
