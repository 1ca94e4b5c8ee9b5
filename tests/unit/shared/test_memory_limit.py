"""The memory limit of a container, by files as the kernel shows them."""

from pathlib import Path

import pytest

from shared.runtime.memory_limit import read_memory_limit

V1_NO_LIMIT = "9223372036854771712"


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "536870912\n"}, 536870912),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/pod/app\n", {"pod/memory.max": "300\n", "pod/app/memory.max": "max\n"}, 300),
        ("0::/pod/app\n", {"pod/memory.max": "300\n", "pod/app/memory.max": "200\n"}, 200),
        ("0::/../elsewhere\n", {"memory.max": "300\n"}, 300),
        ("4:cpu,memory:/docker/1\n3:cpu:/\n", {"memory/memory.limit_in_bytes": "300\n"}, 300),
        ("4:memory:/docker/a:b\n", {"memory/docker/a:b/memory.limit_in_bytes": "300\n"}, 300),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": f"{V1_NO_LIMIT}\n"}, None),
        ("4:memory:/\n0::/\n", {"memory/memory.limit_in_bytes": "300\n"}, 300),
        ("", {"memory.max": "300\n"}, 300),
        ("nonsense\n::\n", {}, None),
        ("0::/\n", {"memory.max": "\udcff-5 many\n"}, None),
        ("0::/\n", {"memory.max": "0\n"}, None),
    ],
)
def test_the_lowest_limit_of_the_group_and_those_above_it_counts(
    tmp_path: Path, own: str, files: dict[str, str], limit: int | None
) -> None:
    groups = tmp_path / "cgroup"
    for name, text in files.items():
        path = groups / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "own").write_text(own)
    assert read_memory_limit(groups, tmp_path / "own") == limit


def test_no_control_groups_are_no_limit(tmp_path: Path) -> None:
    assert read_memory_limit(tmp_path / "cgroup", tmp_path / "own") is None
