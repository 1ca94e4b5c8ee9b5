"""Names of users become one token on the bus, and come back unchanged."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bus import subjects
from shared.messages.codec import Unreadable

printable = st.text(min_size=1, max_size=60).filter(str.isprintable)
KEY = re.compile(r"[-/_=.a-zA-Z0-9]+")
"""What NATS allows in a bucket's key."""


@given(printable)
def test_a_name_becomes_one_valid_token_and_comes_back(name: str) -> None:
    token = subjects.token(name)
    assert KEY.fullmatch(token)
    assert not set(token) & set(". *>")
    assert subjects.name(token) == name


@given(printable, printable)
def test_two_names_never_share_a_token(one: str, other: str) -> None:
    assert (subjects.token(one) == subjects.token(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("qwen3-coder_1", "qwen3-coder_1"),
        ("qwen2.5-7b", "qwen2=2E5-7b"),
        ("org/a b", "org=2Fa=20b"),
        ("é=", "=C3=A9=3D"),
    ],
)
def test_tokens_as_they_are(name: str, token: str) -> None:
    assert subjects.token(name) == token


@given(st.text(max_size=20) | st.from_regex(r"[=A-Fa-f0-9.]{0,12}"))
def test_any_key_is_one_name_s_or_unreadable(key: str) -> None:
    try:
        name = subjects.name(key)
    except Unreadable:
        return
    if "." not in key:
        assert subjects.token(name) == key


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        subjects.token("")


def test_subjects_as_they_are() -> None:
    assert subjects.wake_request("org/m") == "wake.request.org=2Fm"
    assert subjects.activity("gw 1") == "activity.gw=201"
    assert subjects.journal("m-1") == "fleet.journal.m-1"
    assert subjects.confirmed_key("gw.1") == "confirmed.gw=2E1"


@given(printable)
def test_usage_goes_to_one_of_the_partitions_always_the_same(source: str) -> None:
    head, _, partition = subjects.usage(source).partition(".")
    assert head == "usage"
    assert 0 <= int(partition) < subjects.PARTITIONS
    assert subjects.usage(source) == subjects.usage(source)
