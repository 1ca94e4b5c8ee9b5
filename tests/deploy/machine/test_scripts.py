"""The scripts of a GPU machine run for real; the machine's programs are stand-ins that note how they were called."""

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.machine.render import HERE
from tests.deploy.machine.machines import NFT, user_data, write_files, write_machine, write_program
from tests.kit.debian import program

SCRIPTS = HERE / "root/usr/local/lib/spotinference"
LIST = b"vllm==0.32.0 --hash=sha256:00\n"
MARKED = 'echo "$(basename "$0") $*" >>"$CALLS"'
"""Of a stand-in: notes its call."""
MAKE_VENV = """
[[ $1 == -c ]] && exit
for last; do :; done
mkdir -p "$last/bin"
for name in pip hf; do cp "$MARK" "$last/bin/$name"; done
"""
FETCH = 'while [[ $1 != -o ]]; do shift; done; cp "$SERVED" "$2"'


@dataclass
class StandInMachine:
    """A machine below `root`, whose programs are stand-ins."""

    root: Path

    def __post_init__(self) -> None:
        self.program("systemctl", MARKED)
        for name in ("openssl", "wg"):
            self.program(name, MARKED + "; echo secret")
        self.program("nvidia-smi", "printf '580.95.05\\n580.95.05\\n'")
        self.program("snap", MARKED)
        self.program("sleep", MARKED)
        self.program("dpkg", MARKED)
        self.program("dpkg-query", 'cat "$INSTALLED"')
        self.program("apt-get", f'{MARKED}; [[ $* != *install* ]] || printf "installed\\ninstalled\\n" >"$INSTALLED"')
        (self.root / "installed").write_text("installed\nhalf-installed\n")
        self.program("python3", MARKED + MAKE_VENV)
        self.program("curl", MARKED + "\n" + FETCH)
        write_program(self.root / "mark", MARKED)
        (self.root / "served").write_bytes(LIST)
        self.values = {
            "MODEL": "org/name",
            "REVISION": "0" * 40,
            "MODEL_DIR": f"{self.root}/models/name",
            "VOLUME": "",
            "ENGINE_URL": "http://10.0.4.11:8000",
            "CACHE_DIR": f"{self.root}/cache",
            "VENV": f"{self.root}/vllm",
            "KEY_FILE": f"{self.root}/key.env",
            "WIREGUARD_KEY": "",
            "ENGINE_USER": str(os.getuid()),
            "GPUS": "2",
            "ARTIFACTS_URL": "https://artifacts.example.com",
            "ENGINE_SHA256": hashlib.sha256(LIST).hexdigest(),
            "COMMAND_VENV": "",
            "COMMAND_SHA256": "",
            "PACKAGE": "",
            "PACKAGE_SHA256": "",
            "PACKAGES": "nftables curl",
            "PACKAGES_SECONDS": "600",
            "UNITS": "a.service b.timer",
            "SILENCE_SECONDS": "1800",
            "FIRST_START_SECONDS": "1800",
            "START_SECONDS": "480",
        }

    def program(self, name: str, script: str) -> None:
        write_program(self.root / "bin" / name, script)

    def run(self, script: str, *, before: str = "") -> subprocess.CompletedProcess[str]:
        """Run a script; with `before`, after that command and in a network of their own."""
        values = "".join(f'{name}="{value}"\n' for name, value in self.values.items())
        (self.root / "machine.env").write_text(values, "utf-8")
        environment = {
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            "MACHINE_ENV": f"{self.root}/machine.env",
            "CLOUD_INIT_DISABLED": f"{self.root}/cloud-init.disabled",
            "RUNTIME_DIRECTORY": str(self.root),
            "UPTIME": f"{self.root}/uptime",
            "MEMINFO": f"{self.root}/meminfo",
            "CALLS": f"{self.root}/calls",
            "MARK": f"{self.root}/mark",
            "SERVED": f"{self.root}/served",
            "INSTALLED": f"{self.root}/installed",
            "FSTAB": f"{self.root}/fstab",
        }
        words = ["bash", str(SCRIPTS / script)]
        if before:
            words = ["unshare", "--user", "--map-root-user", "--net", "bash", "-c", f"{before} && {' '.join(words)}"]
        return subprocess.run(words, env=environment, check=False, capture_output=True, text=True)

    def calls(self, name: str) -> list[str]:
        path = self.root / "calls"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return [line.partition(" ")[2] for line in lines if line.split()[0] == name]


@pytest.fixture
def machine(tmp_path: Path) -> StandInMachine:
    return StandInMachine(tmp_path)


def weights(machine: StandInMachine, *, free_kib: int) -> None:
    folder = Path(machine.values["MODEL_DIR"])
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"model-{number}.safetensors").write_bytes(b"\0" * 4096 * 1024)
    (machine.root / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {free_kib} kB\n")


def test_weights_are_read_into_memory_when_they_fit(machine: StandInMachine) -> None:
    weights(machine, free_kib=20_000)
    machine.program("dd", MARKED)
    result = machine.run("prefetch-weights")
    assert result.stdout.startswith("read 12 MiB of weights in ")
    assert sorted(machine.calls("dd")) == [
        f"of=/dev/null bs=16M status=none if={machine.values['MODEL_DIR']}/model-{number}.safetensors"
        for number in range(3)
    ]


def test_weights_are_left_on_the_disk_when_memory_is_short(machine: StandInMachine) -> None:
    weights(machine, free_kib=10_000)
    machine.program("dd", MARKED)
    result = machine.run("prefetch-weights")
    assert (result.returncode, result.stdout) == (0, "not read: 12 MiB of weights, 9 MiB of memory\n")
    assert machine.calls("dd") == []


def test_missing_weights_are_reported(machine: StandInMachine) -> None:
    result = machine.run("prefetch-weights")
    assert result.returncode == 1
    assert "has no *.safetensors: run /usr/local/lib/spotinference/provision" in result.stderr


def check_silence(machine: StandInMachine, uptime_s: int, packets: int) -> list[str]:
    """Run the dead man's check; return what it had the service manager do."""
    (machine.root / "uptime").write_text(f"{uptime_s}.42 1000.00\n")
    counter = f"table inet spotinference {{\n\tcounter engine {{\n\t\tpackets {packets} bytes 4711\n\t}}\n}}"
    machine.program("nft", f"{MARKED}; echo '{counter}'")
    before = len(machine.calls("systemctl"))
    assert machine.run("dead-man").returncode == 0
    assert machine.calls("nft")[-1] == "list counter inet spotinference engine"
    return machine.calls("systemctl")[before:]


def test_silence_powers_the_machine_off(machine: StandInMachine) -> None:
    assert check_silence(machine, 900, 7) == []
    assert check_silence(machine, 2699, 7) == []
    assert check_silence(machine, 2700, 7) == ["poweroff"]


def test_the_counter_is_read_from_the_real_firewall(machine: StandInMachine, tmp_path: Path) -> None:
    nft = " ".join(program("nft", *NFT))
    machine.program("nft", f'exec {nft} "$@"')
    root = write_files(user_data(write_machine(tmp_path)), tmp_path / "root")
    (machine.root / "uptime").write_text("900.42 1000.00\n")
    result = machine.run("dead-man", before=f"{nft} -f {root / 'etc/nftables.conf'}")
    assert (result.returncode, result.stderr) == (0, "")
    assert (machine.root / "packets").read_text() == "0 900\n"


def test_a_packet_begins_the_silence_again(machine: StandInMachine) -> None:
    assert check_silence(machine, 900, 7) == []
    assert check_silence(machine, 2600, 8) == []
    assert check_silence(machine, 4399, 8) == []
    assert check_silence(machine, 4400, 8) == ["poweroff"]


@pytest.mark.parametrize("left", ["", "7", "7 x", "\n"])
def test_a_damaged_memory_of_the_silence_begins_it_again(machine: StandInMachine, left: str) -> None:
    (machine.root / "packets").write_text(left)
    assert check_silence(machine, 900, 7) == []
    assert check_silence(machine, 2700, 7) == ["poweroff"]


def test_a_firewall_that_was_loaded_again_begins_the_silence_again(machine: StandInMachine) -> None:
    assert check_silence(machine, 900, 7) == []
    assert check_silence(machine, 2700, 0) == []


def test_a_machine_without_its_counter_is_left_on(machine: StandInMachine) -> None:
    (machine.root / "uptime").write_text("9000.42 1000.00\n")
    machine.program("nft", "echo 'Error: No such file or directory' >&2; exit 1")
    assert machine.run("dead-man").returncode == 1
    assert machine.calls("systemctl") == []


def test_provisioning_makes_the_machine_and_can_be_repeated(machine: StandInMachine) -> None:
    first = machine.run("provision")
    assert first.returncode == 0, first.stderr
    assert [call.split()[-1] for call in machine.calls("apt-get")] == ["update", "curl"]
    services = [call for call in machine.calls("systemctl") if not call.startswith(("mask", "stop"))]
    assert services[0] == "enable --now nftables.service", "the firewall comes first"
    started = ["enable a.service b.timer", "start --no-block a.service b.timer"]
    assert machine.calls("systemctl")[-3:] == [*started, "restart spotinference-engine.service"]
    assert machine.calls("curl")[1:] == ["-fs --max-time 5 -o /dev/null http://10.0.4.11:8000/health"] * 2
    assert "start from the caches: the engine was ready after 0 s" in first.stdout
    assert machine.calls("snap") == ["refresh --hold"]
    key = Path(machine.values["KEY_FILE"])
    assert key.read_text() == "VLLM_API_KEY=secret\n"
    assert key.stat().st_mode & 0o077 == 0
    assert "secret" not in first.stdout
    (installed,) = machine.calls("pip")
    assert "--require-hashes" in installed
    what = f"org/name --revision {'0' * 40} --local-dir {machine.values['MODEL_DIR']}"
    assert machine.calls("hf") == [f"download {what}", f"cache verify {what} --fail-on-missing-files"]
    assert (machine.root / "cloud-init.disabled").exists()

    machine.program("openssl", "echo another")
    assert machine.run("provision").returncode == 0
    assert key.read_text() == "VLLM_API_KEY=secret\n"
    assert (len(machine.calls("pip")), len(machine.calls("hf")), len(machine.calls("curl"))) == (1, 2, 3)
    assert len(machine.calls("apt-get")) == 2
    assert machine.calls("systemctl").count("restart spotinference-engine.service") == 1, "it may be in use by now"


def test_provisioning_waits_for_a_network_that_has_no_way_out_yet(machine: StandInMachine) -> None:
    machine.program("apt-get", f"{MARKED}; exit 100")
    machine.program("sleep", f"rm {machine.root}/bin/apt-get; cp {machine.root}/late {machine.root}/bin/apt-get")
    write_program(machine.root / "late", 'printf "installed\\ninstalled\\n" >"$INSTALLED"')
    assert machine.run("provision").returncode == 0


def test_provisioning_can_be_repeated_where_packages_were_missing(machine: StandInMachine) -> None:
    machine.program("apt-get", f"{MARKED}; exit 100")
    machine.values["PACKAGES_SECONDS"] = "0"
    result = machine.run("provision")
    assert (result.returncode, result.stderr) == (
        1,
        "provision: the packages above cannot be installed: repeat it when they can\n",
    )
    assert not any(call.startswith("enable") for call in machine.calls("systemctl"))
    (machine.root / "installed").write_text("installed\ninstalled\n")
    assert machine.run("provision").returncode == 0


def test_provisioning_stops_at_a_list_of_packages_that_has_changed(machine: StandInMachine) -> None:
    (machine.root / "served").write_bytes(LIST + b"another==1\n")
    result = machine.run("provision")
    assert result.returncode == 1
    assert "https://artifacts.example.com/engine.txt has changed" in result.stderr
    assert machine.calls("pip") == []
    (machine.root / "served").write_bytes(LIST)
    assert machine.run("provision").returncode == 0, "it goes on where it failed"


def test_provisioning_installs_the_command_of_a_spot_machine(machine: StandInMachine) -> None:
    checksum = hashlib.sha256(LIST).hexdigest()
    machine.values |= {"COMMAND_VENV": f"{machine.root}/command", "PACKAGE": "it.whl"}
    machine.values |= {"COMMAND_SHA256": checksum, "PACKAGE_SHA256": checksum}
    result = machine.run("provision")
    assert result.returncode == 0, result.stderr
    fetched = [call.rpartition("/")[2] for call in machine.calls("curl") if "artifacts" in call]
    assert fetched == ["engine.txt", "setup.txt", "it.whl"]
    assert machine.calls("pip")[-1].endswith(f"--no-deps {machine.root}/command/it.whl")

    assert machine.run("provision").returncode == 0
    assert len(machine.calls("pip")) == 3


def test_provisioning_stops_where_a_gpu_is_missing(machine: StandInMachine) -> None:
    machine.program("nvidia-smi", "echo 580.95.05")
    result = machine.run("provision")
    assert (result.returncode, result.stderr) == (1, "provision: 1 GPUs, and the class needs 2\n")


def test_provisioning_goes_on_where_the_image_upgrades_nothing(machine: StandInMachine) -> None:
    machine.program("systemctl", f'{MARKED}; [[ $1 != stop && "$*" != "mask --now"* ]]')
    assert machine.run("provision").returncode == 0
    assert any(call.startswith("mask") for call in machine.calls("systemctl"))


def test_provisioning_stops_at_a_python_that_is_too_old(machine: StandInMachine) -> None:
    machine.program("python3", "exit 1")
    result = machine.run("provision")
    assert (result.returncode, result.stderr) == (1, "provision: Python 3.11 or later is needed: use a newer image\n")


def test_provisioning_names_the_missing_driver(machine: StandInMachine) -> None:
    machine.program("nvidia-smi", "exit 9")
    result = machine.run("provision")
    assert result.returncode == 1
    assert "no NVIDIA driver for kernel" in result.stderr
    assert "if they brought a newer kernel, reboot first" in result.stderr


def test_provisioning_stops_at_a_driver_that_is_too_old_for_the_engine(machine: StandInMachine) -> None:
    machine.program("nvidia-smi", "printf '570.86\\n570.86\\n'")
    result = machine.run("provision")
    assert result.stderr == "provision: driver 570.86: the engine's CUDA 13 needs 580 or later\n"


def with_volume(machine: StandInMachine, signatures: str) -> StandInMachine:
    """Give the machine a disk on which there is this."""
    machine.values["VOLUME"] = "/dev/nvme1n1"
    (machine.root / "fstab").touch()
    machine.program("mountpoint", "exit 32")
    machine.program("wipefs", signatures)
    for name in ("mkfs.ext4", "udevadm", "mount"):
        machine.program(name, MARKED)
    return machine


@pytest.mark.parametrize(
    ("signatures", "made"), [("", ["-q -L spotinference /dev/nvme1n1"]), ("ext4 spotinference", [])]
)
def test_provisioning_makes_a_file_system_on_an_empty_volume_alone(
    machine: StandInMachine, signatures: str, made: list[str]
) -> None:
    with_volume(machine, f"printf '{signatures}'")
    assert machine.run("provision").returncode == 0
    assert machine.run("provision").returncode == 0
    assert machine.calls("mkfs.ext4") == made * 2
    assert machine.calls("mount") == ["/srv"] * 2
    assert (machine.root / "fstab").read_text().count("LABEL=spotinference /srv ext4 noatime,nofail,") == 1


@pytest.mark.parametrize("signatures", ["echo ext4 books", "echo gpt; echo PMBR", "exit 1"])
def test_provisioning_leaves_a_volume_that_is_in_use(machine: StandInMachine, signatures: str) -> None:
    result = with_volume(machine, signatures).run("provision")
    assert result.returncode == 1
    assert result.stderr.startswith("provision: /dev/nvme1n1 ")
    assert [*machine.calls("mkfs.ext4"), *machine.calls("mount"), *machine.calls("hf")] == []


def test_provisioning_stops_at_weights_that_are_not_what_was_published(machine: StandInMachine) -> None:
    write_program(machine.root / "mark", MARKED + '\n[[ $1 != cache ]] || { echo "model-1.safetensors"; exit 1; }')
    result = machine.run("provision")
    assert (result.returncode, result.stdout.splitlines()[-1]) == (1, "model-1.safetensors")
    assert f"delete the files named above in {machine.values['MODEL_DIR']}, and repeat" in result.stderr
    write_program(machine.root / "mark", MARKED)
    for program_name in ("pip", "hf"):
        write_program(Path(machine.values["VENV"]) / "bin" / program_name, MARKED)
    assert machine.run("provision").returncode == 0


@pytest.mark.parametrize("which", ["first start, which compiles", "start from the caches"])
def test_provisioning_is_not_done_before_an_engine_has_started_from_its_caches(
    machine: StandInMachine, which: str
) -> None:
    """In the place of the cloud's first wake, which would time out."""
    is_second = which == "start from the caches"
    healthy = f"[[ -e {machine.root}/restarted ]] && now=1 || now=0; [[ $now != {int(is_second)} ]]"
    machine.program("curl", f"{MARKED}\nif [[ $* == */health ]]; then {healthy}; exit; fi\n{FETCH}")
    machine.program("systemctl", f"{MARKED}; [[ $1 != restart || $2 != *engine* ]] || touch {machine.root}/restarted")
    machine.values |= {"FIRST_START_SECONDS": "0", "START_SECONDS": "0"}
    result = machine.run("provision")
    assert result.returncode == 1
    assert f"{which}: the engine is not ready after 0 s: journalctl -u spotinference-engine" in result.stderr
    assert not (machine.root / "cloud-init.disabled").exists()


def test_the_silence_of_a_first_start_does_not_power_the_machine_off(machine: StandInMachine) -> None:
    """It may take 1800 s, and only provisioning itself asks the engine, by the loopback, which does not count."""
    assert check_silence(machine, 900, 7) == []
    probe_mark = machine.root / "probed"
    healthy = f"[[ -e {probe_mark} ]] || {{ touch {probe_mark}; false; }}"
    machine.program("curl", f"{MARKED}\nif [[ $* == */health ]]; then {healthy}; exit; fi\n{FETCH}")
    assert machine.run("provision").returncode == 0
    assert probe_mark.exists()
    assert check_silence(machine, 2700, 7) == []


def test_provisioning_makes_the_key_of_its_end_of_the_tunnel(machine: StandInMachine) -> None:
    machine.values["WIREGUARD_KEY"] = f"{machine.root}/wg.key"
    result = machine.run("provision")
    assert result.returncode == 0, result.stderr
    assert machine.calls("wg") == ["genkey", "pubkey"]
    assert Path(machine.values["WIREGUARD_KEY"]).stat().st_mode & 0o077 == 0


def test_scripts_pass_shellcheck() -> None:
    shellcheck = program("shellcheck", "shellcheck", "libffi8", "libgmp10")
    result = subprocess.run(
        [*shellcheck, *map(str, sorted(SCRIPTS.iterdir()))], check=False, capture_output=True, text=True
    )
    assert result.stdout == ""
    assert result.returncode == 0
