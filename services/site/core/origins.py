"""Where a request comes from: whether this site's own page sent it, and which network its client is in."""

import hashlib
import hmac
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network


def is_own_request(fetch_site: str | None, origin: str | None, own_origin: str) -> bool:
    """Return whether a page of this site sent a request, by its headers `Sec-Fetch-Site` and `Origin`.

    Browsers without the former send the latter. A request with neither is nobody's form.
    """
    if fetch_site is not None:
        return fetch_site == "same-origin"
    return origin is not None and origin == own_origin


def form_token(session: str, purpose: str) -> str:
    """Return the token that a form of this session and purpose carries. `session` is the cookie's value."""
    return hmac.new(session.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def is_form_token(token: str, session: str, purpose: str) -> bool:
    return hmac.compare_digest(token.encode(), form_token(session, purpose).encode())


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Return the address of the client: the last that no trusted proxy named.

    `forwarded`: the addresses of `X-Forwarded-For`, each added by the one who received the request from it.
    """
    address = peer
    for earlier in reversed(forwarded):
        if not _is_within(address, trusted) or not _is_address(earlier):
            break
        address = earlier
    return address


def network_of(address: str) -> str:
    """Return the network that is kept of an address: enough to recognise one's own, and no more."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return str(ip_network(f"{parsed}/{24 if parsed.version == 4 else 48}", strict=False))


def _is_within(address: str, networks: Sequence[Network]) -> bool:
    return _is_address(address) and any(ip_address(address) in network for network in networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
