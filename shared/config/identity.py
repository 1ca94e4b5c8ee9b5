"""Who may sign in to the site: the accounts at identity providers."""

import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Annotated
from urllib.parse import urlsplit

from shared.config.values import Bounds, Money, Section

_IDENTITY = re.compile(r"github:\d{1,18}|oidc:[\x21-\x7e]{1,255}")
_Count = Annotated[int, Bounds(1, 10**12)]
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class GithubSection(Section, frozen=True, kw_only=True):
    """The site's app at GitHub. Its secret is in `GITHUB_CLIENT_SECRET`."""

    client_id: str
    web_url: str = "https://github.com"
    """Where people sign in. GitHub Enterprise Server: its origin."""
    api_url: str = "https://api.github.com"
    """GitHub Enterprise Server: its origin and `/api/v3`."""


class OidcSection(Section, frozen=True, kw_only=True):
    """The site as a client of a provider of OpenID Connect. Its secret is in `OIDC_CLIENT_SECRET`."""

    issuer: str
    client_id: str
    groups_claim: str | None = None
    """The claim of the user's profile that lists groups. They are compared with `organisations`."""


class KeyLimitsSection(Section, frozen=True, kw_only=True):
    """The limits of a key that somebody below operator makes on the site: its default and its highest ones."""

    requests_per_minute: _Count | None = None
    tokens_per_minute: _Count | None = None
    concurrency: _Count | None = None
    monthly_tokens: _Count | None = None
    wakes_per_hour: Annotated[int, Bounds(1, 1000)] | None = None
    """Without it, a key has the gateway's; so with the next."""
    wake_cost_per_day: Money | None = None


def identity_faults(place: str, identities: tuple[str, ...]) -> Iterator[str]:
    """Identities that no provider could report."""
    for identity in identities:
        if not _IDENTITY.fullmatch(identity):
            yield f'{place} must contain identities such as "github:583231", with the number, got {identity!r}'


def provider_faults(github: GithubSection | None, oidc: OidcSection | None) -> Iterator[str]:
    """Addresses to which secrets would be sent in the clear."""
    if github is not None:
        yield from _url_faults("site.github.web_url", github.web_url)
        yield from _url_faults("site.github.api_url", github.api_url)
    if oidc is not None:
        yield from _url_faults("site.oidc.issuer", oidc.issuer)


def proxy_faults(proxies: tuple[str, ...]) -> Iterator[str]:
    """What is no network."""
    for proxy in proxies:
        try:
            ip_network(proxy)
        except ValueError:
            yield f'site.trusted_proxies must contain networks such as "10.0.0.0/8", got {proxy!r}'


def _url_faults(place: str, url: str) -> Iterator[str]:
    parts = urlsplit(url)
    if not parts.hostname or not (parts.scheme == "https" or is_loopback(url)) or parts.query or parts.fragment:
        yield f"{place} must be an https:// URL, since secrets are sent there, got {url!r}"


def is_loopback(url: str) -> bool:
    """Return whether this is a plain URL of this host, over which nothing leaves it."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in _LOOPBACK
