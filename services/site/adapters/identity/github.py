"""Sign-in with GitHub, or GitHub Enterprise Server: no scope, the account's number as identity."""

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

import aiohttp
import msgspec
import structlog

from services.site.adapters.identity.oauth import OAuthClient, Unanswered
from services.site.core.people import Profile
from services.site.ports import SignInFailed
from shared.config.identity import GithubSection
from shared.messages.codec import encode

log = structlog.get_logger()

LABEL = "GitHub"


class _User(msgspec.Struct, frozen=True):
    id: Annotated[int, msgspec.Meta(gt=0, lt=2**62)]
    login: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    name: str | None = None


class _Membership(msgspec.Struct, frozen=True):
    state: str


class _Token(msgspec.Struct, frozen=True):
    access_token: str


class GithubProvider:
    """The port `IdentityProvider`."""

    name = "github"
    label = LABEL

    def __init__(
        self, http: aiohttp.ClientSession, config: GithubSection, client_secret: str, *, reads_organisations: bool
    ) -> None:
        self._client = OAuthClient(http, label=LABEL, client_id=config.client_id, client_secret=client_secret)
        self._web_url = config.web_url.rstrip("/")
        self._api_url = config.api_url.rstrip("/")
        self._scope = ["read:org"] if reads_organisations else None

    async def authorize_url(self, *, state: str, challenge: str, redirect_uri: str) -> str:
        return self._client.authorize_url(
            f"{self._web_url}/login/oauth/authorize",
            state=state,
            challenge=challenge,
            redirect_uri=redirect_uri,
            scope=self._scope,
            more={"allow_signup": "false", "prompt": "select_account"},
        )

    async def read_profile(
        self, *, code: str, verifier: str, redirect_uri: str, organisations: Sequence[str]
    ) -> Profile:
        token = await self._client.exchange(
            f"{self._web_url}/login/oauth/access_token", code=code, verifier=verifier, redirect_uri=redirect_uri
        )
        try:
            user = await self._client.read(f"{self._api_url}/user", _User, token=token)
            answers = {name: await self._is_member(name, token) for name in organisations}
        finally:
            await self._revoke(token)
        return Profile(
            identity=f"github:{user.id}",
            login=user.login,
            name=user.name,
            organisations=frozenset(name for name, answer in answers.items() if answer),
            hidden=frozenset(name for name, answer in answers.items() if answer is None),
        )

    async def _is_member(self, organisation: str, token: str) -> bool | None:
        """Return whether the account belongs to it; None: GitHub does not show it."""
        url = f"{self._api_url}/user/memberships/orgs/{quote(organisation, safe='')}"
        try:
            return (await self._client.read(url, _Membership, token=token)).state == "active"
        except Unanswered as error:
            if error.status in (403, 404):
                return None if error.status == 403 else False
            raise

    async def _revoke(self, token: str) -> None:
        """End the token, which has served its purpose. A failure leaves it to GitHub; the sign-in goes on."""
        url = f"{self._api_url}/applications/{self._client.client_id}/token"
        headers = {"Authorization": self._client.basic_auth(), "Content-Type": "application/json"}
        body = encode(_Token(token)).decode("utf-8", "replace")
        try:
            status, _ = await self._client.send("DELETE", url, headers=headers, data=body)
        except SignInFailed:
            return
        if status != 204:
            log.warning("token_revocation_failed", provider=LABEL, status=status)
