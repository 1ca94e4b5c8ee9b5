"""Sign-in with a provider of OpenID Connect: by discovery, the code flow, and `userinfo`.

The token comes from the token endpoint over verified TLS, which OpenID Connect Core 3.1.3.7 accepts in place of the
id_token's signature.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec

from services.site.adapters.identity.oauth import OAuthClient
from services.site.core.people import Profile
from services.site.ports import ProviderFailed, SignInFailed
from shared.config.identity import OidcSection, is_loopback
from shared.messages.codec import Unreadable, decode


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str
    revocation_endpoint: str | None = None


class _User(msgspec.Struct, frozen=True):
    sub: Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,255}$")]
    preferred_username: str | None = None
    name: str | None = None
    email: str | None = None


class OidcProvider:
    """The port `IdentityProvider`."""

    name = "oidc"

    def __init__(self, http: aiohttp.ClientSession, config: OidcSection, client_secret: str) -> None:
        self.label = urlsplit(config.issuer).hostname or config.issuer
        self._client = OAuthClient(http, label=self.label, client_id=config.client_id, client_secret=client_secret)
        self._issuer = config.issuer
        self._groups_claim = config.groups_claim
        self._discovered: _Discovery | None = None

    async def authorize_url(self, *, state: str, challenge: str, redirect_uri: str) -> str:
        discovered = await self._discover()
        return self._client.authorize_url(
            discovered.authorization_endpoint,
            state=state,
            challenge=challenge,
            redirect_uri=redirect_uri,
            scope=["openid", "profile"],
            more={},
        )

    async def read_profile(
        self, *, code: str, verifier: str, redirect_uri: str, organisations: Sequence[str]
    ) -> Profile:
        discovered = await self._discover()
        token = await self._client.exchange(
            discovered.token_endpoint, code=code, verifier=verifier, redirect_uri=redirect_uri
        )
        groups: frozenset[str] = frozenset()
        try:
            user = await self._client.read(discovered.userinfo_endpoint, _User, token=token)
            if organisations and self._groups_claim is not None:
                groups = await self._groups(discovered.userinfo_endpoint, token)
        finally:
            await self._revoke(discovered.revocation_endpoint, token)
        return Profile(
            identity=f"oidc:{user.sub}",
            login=user.preferred_username or user.email or user.sub,
            name=user.name,
            organisations=groups & frozenset(organisations),
        )

    async def _groups(self, url: str, token: str) -> frozenset[str]:
        status, answer = await self._client.send("GET", url, headers={"Authorization": f"Bearer {token}"})
        try:
            raw = decode(answer, dict[str, msgspec.Raw]).get(self._groups_claim or "") if status == 200 else None
            return frozenset() if raw is None else frozenset(decode(bytes(raw), list[str]))
        except Unreadable:
            return frozenset()

    async def _revoke(self, url: str | None, token: str) -> None:
        """End the token where the provider can (RFC 7009). A failure leaves it to the provider."""
        if url is None:
            return
        headers = {"Authorization": self._client.basic_auth(), "Content-Type": "application/x-www-form-urlencoded"}
        with suppress(SignInFailed):
            await self._client.send("POST", url, headers=headers, data=urlencode({"token": token}))

    async def _discover(self) -> _Discovery:
        if self._discovered is None:
            read = await self._client.read(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration", _Discovery)
            if read.issuer != self._issuer:
                raise ProviderFailed(f"{self.label} names another issuer than the one configured. Tell the operator.")
            endpoints = (read.authorization_endpoint, read.token_endpoint, read.userinfo_endpoint)
            for url in (*endpoints, *([read.revocation_endpoint] if read.revocation_endpoint else [])):
                if urlsplit(url).scheme != "https" and not is_loopback(url):
                    raise ProviderFailed(f"{self.label} is not reached over https. Tell the operator.")
            self._discovered = read
        return self._discovered
