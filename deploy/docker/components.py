"""Prints the components of an image as CycloneDX 1.6 JSON: `components.py ROOT`.

ROOT is the image's root folder. Its Python packages are those below /app, its Debian packages those whose control files
are under /var/lib/dpkg/status.d, where bases without a package manager keep them.
"""

import sys
from collections.abc import Iterator
from email.parser import HeaderParser
from importlib.metadata import distributions
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL


def components(root: Path) -> Iterator[Component]:
    """Every package in the image, Python's first."""
    for distribution in distributions(path=[str(root / "app")]):
        yield _component(PackageURL("pypi", None, distribution.name.lower(), distribution.version))
    for control in sorted((root / "var/lib/dpkg/status.d").glob("*")):
        fields = HeaderParser().parsestr(control.read_text(encoding="utf-8"))
        if not fields["Package"]:
            continue  # the checksums that some bases keep beside the control files
        qualifiers = {"arch": fields["Architecture"], "distro": "debian-12"}
        yield _component(PackageURL("deb", "debian", fields["Package"], fields["Version"], qualifiers))


def _component(url: PackageURL) -> Component:
    return Component(type=ComponentType.LIBRARY, name=url.name, version=url.version, purl=url, bom_ref=url.to_string())


if __name__ == "__main__":
    sys.stdout.write(JsonV1Dot6(Bom(components=components(Path(sys.argv[1])))).output_as_string(indent=1) + "\n")
