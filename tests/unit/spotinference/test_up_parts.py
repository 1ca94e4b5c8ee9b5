"""What `up` is made of: the bus's share of the disk, its output, its log files, its children's environments."""

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import clouds
from shared.config.load import parse
from shared.errors import Misconfigured
from shared.runtime import suite_file
from shared.runtime.suite_file import open_data_dir, write_private
from spotinference.up import log_files
from spotinference.up.console import Console
from spotinference.up.environment import child_environment
from spotinference.up.log_files import LogFiles
from spotinference.up.store_limits import has_room, measure, store_limits
from spotinference.up.suite_runner import SERVICES

SIZES = st.integers(0, 2**50)
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "aws",
    "AWS_SHARED_CREDENTIALS_FILE": "/aws",
    "HYPERSTACK_API_KEY": "hyperstack",
    "HYPERSTACK_API_KEY_FILE": "/hyperstack",
    "PGPASSWORD": "database",
    "SPOTINFERENCE_KEY": "sk-1",
    "SPOTINFERENCE_BUS_URL": "nats://user:password@host:4222",
    "HTTPS_PROXY": "http://user:password@proxy:3128",
    "SOMETHING_TOKEN": "whose it is nobody knows",
    "HF_TOKEN": "an engine's",
    "NAMED_TOKEN": "a machine's, by the configuration",
}
CONFIG = parse(
    """
[[tier]]
name = "local"
provider = "process"
[[machine]]
id = "local-1"
tier = "local"
command = ["engine", "{port}"]
environment = ["NAMED_TOKEN"]
""",
    "test",
)


@given(stored=SIZES, free=SIZES, before=SIZES)
def test_the_store_leaves_the_disk_a_part_and_the_control_plane_another(stored: int, free: int, before: int) -> None:
    limits = store_limits(stored=stored, free=free, usage_before=before)
    assert limits.total >= max(stored, before)
    assert limits.usage <= limits.total
    assert 4 * (limits.total - limits.usage) >= min(limits.total, 4 * 1024**3) - 3
    if before <= stored + free // 2:
        assert limits.total <= stored + free
        assert free < 2 or limits.total < stored + free


def test_store_limit_is_never_below_the_server_s_record(tmp_path: Path) -> None:
    meta = tmp_path / "jetstream" / "$G" / "streams" / "USAGE" / "meta.inf"
    meta.parent.mkdir(parents=True)
    meta.write_bytes(b'{"name":"USAGE","max_bytes":%d}' % 2**60)
    assert measure(tmp_path).total == 2**60
    meta.write_bytes(b"\xff[[[")
    assert 0 < measure(tmp_path).total < 2**60


def test_room_is_what_can_be_written(tmp_path: Path) -> None:
    assert has_room(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not has_room(tmp_path / "missing")


def test_output_that_nobody_reads_blocks_nobody_and_is_counted() -> None:
    reader, writer = os.pipe()
    console = Console(writer, queue_bytes=1000)
    for _ in range(1000):
        console.line("x" * 999)
    assert console.dropped > 0
    shown = b""
    while b"were dropped" not in shown:  # as soon as somebody reads
        shown += os.read(reader, 65536)
        console.line("y")
    os.close(reader)
    console.line("nobody is there any more")
    console.flush(60.0)
    os.close(writer)


def logs_of(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder / "gateway.log"


def test_a_log_is_rotated_while_its_service_writes(tmp_path: Path) -> None:
    path = logs_of(tmp_path)
    shown: list[bytes] = []
    files = LogFiles(tmp_path, shown.append, max_bytes=1000)
    program = "import sys; [print('line', n, file=sys.stderr) or input() for n in range(7)]"
    with path.open("ab") as log:
        service = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=log)
    assert service.stdin is not None
    for _ in range(7):
        while not path.read_bytes().endswith(b"\n"):
            assert service.poll() is None
        with path.open("ab") as more:
            more.write(b"x" * 1000 + b"\n")
        files.poll()
        assert path.stat().st_size == 0
        service.stdin.write(b"\n")
        service.stdin.flush()
    service.communicate()
    assert [line for line in b"".join(shown).splitlines() if line.startswith(b"line")] == [
        b"line %d" % number for number in range(7)
    ]
    older = sorted(file.name for file in path.parent.iterdir())
    assert older == ["gateway.log", *(f"gateway.log.{number + 1}" for number in range(log_files.KEPT))]
    assert path.with_name("gateway.log.1").read_bytes().startswith(b"line 6")
    assert path.with_name(f"gateway.log.{log_files.KEPT}").read_bytes().startswith(b"line 4")


def test_a_log_is_emptied_where_the_disk_has_no_room_for_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    path = logs_of(tmp_path)
    files = LogFiles(tmp_path, lambda _data: None, max_bytes=1000)
    path.write_bytes(b"x" * 2000)
    monkeypatch.setattr("shutil.copyfile", full)
    files.poll()
    assert path.stat().st_size == 0
    assert [file.name for file in path.parent.iterdir()] == ["gateway.log"]


def test_an_engine_s_log_is_bounded_too(tmp_path: Path) -> None:
    log = tmp_path / "machines" / "m1" / "engine.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * 2000)
    LogFiles(tmp_path, lambda _data: None, max_bytes=1000).poll()
    assert (log.stat().st_size, log.with_name("engine.log.1").stat().st_size) == (0, 2000)


def test_a_line_is_shown_once_it_is_whole(tmp_path: Path) -> None:
    path, shown = logs_of(tmp_path), list[bytes]()
    files = LogFiles(tmp_path, shown.append)
    for part in (b"one\ntw", b"o", b"\nthree\n"):
        with path.open("ab") as log:
            log.write(part)
        files.poll()
    assert shown == [b"one\n", b"two\nthree\n"]


def test_of_a_flood_of_lines_the_newest_are_shown(tmp_path: Path) -> None:
    path, shown = logs_of(tmp_path), list[bytes]()
    files = LogFiles(tmp_path, shown.append)
    path.write_bytes(b"x" * log_files.COPY_BYTES + b"\n" * 10)
    files.poll()
    assert shown[0] == b"spotinference: 10 bytes of gateway.log were skipped\n"
    assert len(shown[1]) == log_files.COPY_BYTES


def test_each_child_gets_the_secrets_that_it_uses() -> None:
    outer = {"PATH": "/bin", "LC_ALL": "C.UTF-8", **SECRETS}
    result = {child: set(child_environment(child, outer, CONFIG)) - {"PATH", "LC_ALL"} for child in ("bus", *SERVICES)}
    bus_url = {"SPOTINFERENCE_BUS_URL"}
    cloud = {name for name in SECRETS if name.startswith(("AWS_", "HYPERSTACK_", "HTTPS_"))}
    assert result == {
        "bus": set(),
        "gateway": bus_url,
        "meter": bus_url | {"PGPASSWORD"},
        "site": bus_url | {"PGPASSWORD"},
        "billing": bus_url | {"PGPASSWORD"} | cloud,
        "waker": bus_url | cloud | {"HF_TOKEN", "NAMED_TOKEN"},
    }
    assert all(child_environment(child, outer, CONFIG)["PATH"] == "/bin" for child in ("bus", *SERVICES))


def test_the_children_that_call_clouds_get_the_key_of_each() -> None:
    modules = [
        importlib.import_module(f"shared.clouds.{module.name}") for module in pkgutil.iter_modules(clouds.__path__)
    ]
    keys = {module.KEY_VARIABLE for module in modules if hasattr(module, "KEY_VARIABLE")}
    assert keys
    secrets = {name: "secret" for key in keys for name in (key, f"{key}_FILE")}
    callers = ("billing", "waker")
    assert {name: child_environment(name, secrets, CONFIG) for name in callers} == dict.fromkeys(callers, secrets)


def test_the_data_directory_is_its_owner_s_alone(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir(mode=0o755)
    for folder in (old, tmp_path / "new" / "below"):
        assert open_data_dir(folder) == folder
        assert folder.stat().st_mode & 0o777 == 0o700
    write_private(old / "secret", b"one")
    write_private(old / "secret", b"two")
    assert (old / "secret").read_bytes() == b"two"
    assert (old / "secret").stat().st_mode & 0o777 == 0o600


def test_a_suite_of_another_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")  # root, who may run this test, is refused nothing

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(Misconfigured, match="belongs to another user"):
        suite_file.read(tmp_path)


def test_a_data_directory_that_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        with pytest.raises(Misconfigured) as caught:
            open_data_dir(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unwritable_suite_file_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / suite_file.FILE).mkdir()
    with pytest.raises(Misconfigured, match=r"suite\.json: Is a directory: remove it"):
        suite_file.read(tmp_path)
    suite_file.remove(tmp_path)
