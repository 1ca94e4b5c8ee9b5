"""How a process finds the bus's servers and its user's key."""

import base64
import json
from pathlib import Path

import pytest

from shared.bus.access import BusAccess, seed_file
from shared.bus.subjects import activity, check_sender, limits, replica
from shared.config.load import parse
from shared.errors import Misconfigured
from shared.messages.codec import Unreadable
from shared.runtime.suite_file import BUS_URL_VARIABLE, bus_access, has_named_bus

SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"


def test_each_role_has_its_own_key_when_the_path_has_a_placeholder(tmp_path: Path) -> None:
    config = parse('[bus]\nurls = ["tls://a:1", "tls://b:2"]\nnkey_file = "/keys/{user}.nk"\nca_file = "ca.pem"\n', "c")
    access = bus_access(config, tmp_path, "waker")
    assert access == BusAccess(
        urls=("tls://a:1", "tls://b:2"), ca_file=Path("ca.pem"), nkey_file=Path("/keys/waker.nk"), role="waker"
    )


def test_several_urls_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BUS_URL_VARIABLE, "nats://a:1, nats://u:secret@b:2")
    access = bus_access(parse('[bus]\nurl = "nats://c:3"\n', "c"), tmp_path, "meter")
    assert access.urls == ("nats://a:1", "nats://u:secret@b:2")
    assert access.shown() == "nats://a:1, nats://b:2"


@pytest.mark.parametrize(
    ("toml", "named"), [("", False), ('[bus]\nurl = "nats://a"\n', True), ('[bus]\nurls = ["nats://a"]\n', True)]
)
def test_a_bus_that_is_named_is_not_run_by_up(toml: str, *, named: bool) -> None:
    assert has_named_bus(parse(toml, "c")) is named


@pytest.mark.parametrize(
    ("toml", "fault"),
    [
        ('[bus]\nurl = "nats://a"\nurls = ["nats://b"]\n', "url and urls are both set"),
        ('[bus]\nnkey_file = "a"\ncreds_file = "b"\n', "nkey_file and creds_file are both set"),
        ("[bus]\nreplicas = 6\n", "bus.replicas must be from 1 to 5"),
    ],
)
def test_settings_that_exclude_each_other_are_rejected(toml: str, fault: str) -> None:
    with pytest.raises(Misconfigured, match=fault):
        parse(toml, "c")


def test_a_key_file_names_its_user_and_its_inbox(tmp_path: Path) -> None:
    file = tmp_path / "key.nk"
    file.write_text(seed_file("gateway_eu", SEED))
    access = BusAccess(urls=("nats://a",), nkey_file=file, role="gateway")
    assert access.user == "gateway_eu"
    assert access.options() == {"nkeys_seed_str": SEED, "inbox_prefix": "_INBOX_gateway_eu"}


def test_a_seed_without_a_name_belongs_to_its_role(tmp_path: Path) -> None:
    file = tmp_path / "key.nk"
    file.write_text(f"{SEED}\n")
    assert BusAccess(urls=("nats://a",), nkey_file=file, role="meter").user == "meter"


def test_credentials_name_their_user(tmp_path: Path) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"name": "gateway-2"}).encode()).decode().rstrip("=")
    file = tmp_path / "user.creds"
    file.write_text(f"-----BEGIN NATS USER JWT-----\nhead.{claims}.sig\n------END NATS USER JWT------\n")
    assert BusAccess(urls=("nats://a",), creds_file=file, role="gateway").user == "gateway-2"


@pytest.mark.parametrize("text", ["", "# user: gateway\nno seed\n", "# user: a b\n" + SEED])
def test_a_file_without_a_key_is_named_when_it_is_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key.nk"
    file.write_text(text)
    with pytest.raises(Misconfigured, match=r"key\.nk"):
        BusAccess(urls=("nats://a",), nkey_file=file, role="meter").options()
    with pytest.raises(Misconfigured, match=r"other\.nk"):
        BusAccess(urls=("nats://a",), nkey_file=tmp_path / "other.nk", role="meter").options()


def test_a_gateway_speaks_under_the_name_of_its_user() -> None:
    name = replica("eu", "gateway-0-1a2b3c4d")
    assert (activity(name), limits(name)) == ("activity.eu", "limits.eu")
    assert activity(replica(None, "host-1a2b3c4d")) == "activity.host-1a2b3c4d"


@pytest.mark.parametrize("sender", ["activity.us", "activity.eu2", "activity.host-1"])
def test_a_message_is_rejected_when_it_names_another_users_gateway(sender: str) -> None:
    check_sender("activity.eu", "eu.host-1")
    check_sender("activity.old=2Ehost-1", "old.host-1")  # how a gateway without users called itself before
    with pytest.raises(Unreadable, match="is not the subject of gateway"):
        check_sender(sender, "eu.host-1")
