"""The templates of the site."""

import py_compile
from pathlib import Path

import pytest

from services.site.adapters.rendering import Renderer
from shared.report_forms import words


def test_templates_load_beside_compiled_modules() -> None:
    """Images compile every module, and so does a first start."""
    py_compile.compile(str(Path(words.__file__)), doraise=True)
    assert Renderer(title="a site", nav=()).assets


def test_template_that_changes_on_disk_is_not_loaded_into_a_running_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade in place would mix new templates with old code: a page with an unknown name is a 500."""
    renderer = Renderer(title="a site", nav=())
    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", pytest.fail)
        patched.setattr("io.open", pytest.fail)
        page = renderer.render("error.html", path="", status=404, heading="h", words="w")
    assert "404" in page


def test_every_template_compiles() -> None:
    environment = Renderer(title="a site", nav=())._environment
    assert "status.html" in environment.list_templates()
    for name in environment.list_templates():
        environment.get_template(name)
