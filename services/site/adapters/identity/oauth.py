"""The authorization code flow as providers speak it: oauthlib for the wire format, aiohttp as transport."""

from collections.abc import Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
from oauthlib.oauth2 import OAuth2Error, WebApplicationClient

from services.site.ports import ProviderFailed, SignInFailed
from shared.http_body import read_limited
from shared.messages.codec import Unreadable, decode, decode_text

log = structlog.get_logger()

TIMEOUT_S = 10.0
"""For one request to a provider."""
MAX_BODY_BYTES = 256 * 1024
USER_AGENT = "spotinference-site"
_HTTPS = "https://provider.invalid/"
"""oauthlib takes only https; the scheme of a configured URL was checked when the configuration was read."""
SITE_REFUSED = frozenset(
    {"incorrect_client_credentials", "redirect_uri_mismatch", "invalid_client", "unauthorized_client"}
)
"""Errors of the exchange that say that the site's secret, id or callback is wrong: GitHub's, and those of RFC 6749."""
A = TypeVar("A", bound=msgspec.Struct)


class Unanswered(ProviderFailed):
    """A provider answered with a status other than 200."""

    def __init__(self, label: str, status: int) -> None:
        super().__init__(f"{label} did not answer as it should (status {status}). Try again in a moment.")
        self.status = status


class OAuthClient:
    """One client at one provider. The secret is sent to the provider alone."""

    def __init__(self, http: aiohttp.ClientSession, *, label: str, client_id: str, client_secret: str) -> None:
        self._http = http
        self._label = label
        self._oauth = WebApplicationClient(client_id)
        self.client_id = client_id
        self._client_secret = client_secret

    def basic_auth(self) -> str:
        """Return the header `Authorization` by which the client itself is known."""
        return aiohttp.encode_basic_auth(self.client_id, self._client_secret)

    def authorize_url(
        self,
        endpoint: str,
        *,
        state: str,
        challenge: str,
        redirect_uri: str,
        scope: Sequence[str] | None,
        more: Mapping[str, str],
    ) -> str:
        """Return the URL of the provider's page."""
        uri: str = self._oauth.prepare_request_uri(
            _HTTPS,
            redirect_uri=redirect_uri,
            scope=scope,
            state=state,
            code_challenge=challenge,
            code_challenge_method="S256",
            **more,
        )
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlsplit(uri).query}"

    async def exchange(self, endpoint: str, *, code: str, verifier: str, redirect_uri: str) -> str:
        """Return the access token. Errors come with status 200 too, so the body is what counts."""
        body = self._oauth.prepare_request_body(
            code=code, redirect_uri=redirect_uri, code_verifier=verifier, client_secret=self._client_secret
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        status, answer = await self.send("POST", endpoint, headers=headers, data=body)
        try:
            token = (
                WebApplicationClient(self.client_id)
                .parse_request_body_response(decode_text(answer))
                .get("access_token")
            )
        except OAuth2Error as error:
            log.warning("code_exchange_refused", provider=self._label, status=status, error=error.error)
            if error.error in SITE_REFUSED:
                raise ProviderFailed(f"{self._label} does not accept this site. Tell the operator.") from None
            raise SignInFailed(f"{self._label} did not accept the sign-in. Begin it again.") from None
        except (Unreadable, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            raise ProviderFailed(f"{self._label} did not answer as it should. Try again in a moment.") from None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ProviderFailed(f"{self._label} sent no token. Try again in a moment.")
        return token

    async def read(self, url: str, kind: type[A], *, token: str | None = None) -> A:
        """Return what the provider says at `url`. Raises `Unanswered` for a status other than 200."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        status, answer = await self.send("GET", url, headers=headers)
        if status != 200:
            raise Unanswered(self._label, status)
        try:
            return decode(answer, kind)
        except Unreadable as error:
            log.warning("provider_answer_unreadable", provider=self._label, reason=str(error))
            raise ProviderFailed(f"{self._label} sent a profile that cannot be read. Try again later.") from None

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        data: str | None = None,
    ) -> tuple[int, bytes]:
        """Return the status and the body. A redirection is not followed: it would take the secret along."""
        try:
            async with self._http.request(
                method,
                url,
                headers={"Accept": "application/json", "User-Agent": USER_AGENT, **headers},
                data=data,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            ) as response:
                return response.status, await read_limited(response, MAX_BODY_BYTES)
        except aiohttp.ClientSSLError as error:
            log.error("provider_certificate_refused", provider=self._label, error=str(error.os_error))
            raise ProviderFailed(
                f"{self._label} has no certificate that this site trusts, so nothing was sent. Tell the operator."
            ) from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("provider_call_failed", provider=self._label, error=type(error).__name__)
            raise ProviderFailed(f"{self._label} does not answer. Try again in a moment.") from None
