"""The templates of the site."""

import py_compile
from pathlib import Path

import pytest
from jinja2 import PackageLoader, Template

from services.site.adapters.rendering import Renderer
from shared.report_forms import words


def test_templates_load_beside_compiled_modules() -> None:
    """Images compile every module, and so does a first start."""
    py_compile.compile(str(Path(words.__file__)), doraise=True)
    assert Renderer(title="a site", nav=()).assets


def test_template_that_changes_on_disk_is_not_loaded_into_a_running_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade in place would mix new templates with old code: a page with an unknown name is a 500."""
    monkeypatch.setattr(Template, "is_up_to_date", False)
    reads: list[str] = []
    renderer = Renderer(title="a site", nav=())
    monkeypatch.setattr(PackageLoader, "get_source", lambda *arguments: reads.append(arguments[2]))
    assert "404" in renderer.render("error.html", path="", status=404, heading="h", words="w")
    assert reads == []
