"""The manifests keep every rule. `test_rules` shows that each rule finds what it is for."""

import pytest

from tests.deploy.manifests import K8S, RENDERED, load
from tests.deploy.rules.every_rule import RULES, Rule


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("overlay", RENDERED)
def test_an_overlay_keeps_a_rule(overlay: str, rule: Rule) -> None:
    assert rule(load(overlay)) == []


def test_every_component_is_in_an_overlay() -> None:
    components = {path.parent.name for path in K8S.glob("components/*/kustomization.yaml")}
    used = {
        name
        for folder in RENDERED.values()
        for name in components
        if f"components/{name}" in (folder / "kustomization.yaml").read_text("utf-8")
    }
    assert used == components


def test_every_overlay_is_rendered() -> None:
    assert {path.name for path in K8S.glob("overlays/*")} <= set(RENDERED)
