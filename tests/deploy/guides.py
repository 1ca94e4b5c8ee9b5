"""What the guides say to type and to write, so that tests can check it against the manifests."""

import re
import shlex
from pathlib import Path

from tests.deploy.manifests import ROOT, Manifests, documents, render
from tests.docs.pages import Page, page

KUBERNETES = "docs/howto/deploy-on-kubernetes.md"
EKS = "docs/howto/deploy-on-eks.md"
FOLDER = "my-cluster"
CHECKOUT = "spotinference"
_FILE = re.compile(rf"# {FOLDER}/(\S+)\n")


def kubectl_calls(a_page: Page) -> list[list[str]]:
    """Return the words of each kubectl command, without the redirections after them."""
    lines = [line for block in a_page.blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    commands = [re.split(r" [|>&]", line)[0] for line in lines if line.startswith("kubectl ")]
    return [shlex.split(command) for command in commands]


def render_overlay(name: str, folder: Path) -> Manifests:
    """Write the overlay that a guide shows, beside a checkout of the release, and render it."""
    own = folder / FOLDER
    own.mkdir()
    (folder / CHECKOUT).symlink_to(ROOT)
    a_page = page(name)
    for block in [*a_page.blocks("yaml"), *a_page.blocks("toml")]:
        if file := _FILE.match(block):
            (own / file[1]).write_text(block, "utf-8")
    return Manifests(name, list(documents(render(own))))
