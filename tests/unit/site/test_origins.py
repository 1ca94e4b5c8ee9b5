"""Whose form it is, and which network a client is in."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.site.core.origins import client_address, form_token, is_form_token, is_own_request, network_of

OWN = "https://site.example"
PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("fetch_site", "origin", "own"),
    [
        ("same-origin", None, True),
        ("same-origin", "https://evil.example", True),  # a page cannot set the former
        ("same-site", OWN, False),
        ("cross-site", OWN, False),
        ("none", OWN, False),
        ("", OWN, False),
        (None, OWN, True),
        (None, "http://site.example", False),
        (None, "https://site.example.evil.example", False),
        (None, "null", False),
        (None, None, False),
    ],
)
def test_own_requests_are_known_by_their_headers(fetch_site: str | None, origin: str | None, own: bool) -> None:
    assert is_own_request(fetch_site, origin, OWN) is own


@given(st.text(), st.text(), st.text(), st.text())
def test_a_token_is_of_one_session_and_one_purpose(session: str, purpose: str, other: str, another: str) -> None:
    session, purpose, other, another = (
        text.encode("utf-8", "replace").decode() for text in (session, purpose, other, another)
    )
    token = form_token(session, purpose)
    assert is_form_token(token, session, purpose)
    assert is_form_token(token, other, another) is ((other, another) == (session, purpose))
    assert not is_form_token(token[:-1], session, purpose)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.7", [], "198.51.100.7"),
        ("198.51.100.7", ["203.0.113.9"], "198.51.100.7"),  # not from a proxy: it may say anything
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["192.0.2.1", "203.0.113.9"], "203.0.113.9"),  # the first is the client's own word
        ("10.0.0.1", ["192.0.2.1", "203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("", ["203.0.113.9"], ""),
    ],
)
def test_only_a_proxy_of_ours_names_the_client(peer: str, forwarded: list[str], client: str) -> None:
    assert client_address(peer, forwarded, PROXIES) == client


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.0/24"),
        ("::ffff:203.0.113.9", "203.0.113.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_only_the_network_of_an_address_is_kept(address: str, network: str) -> None:
    assert network_of(address) == network
