"""Signs people in: a state that belongs to one browser, a code that is used once, and the rule for who may."""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from oauthlib.oauth2 import WebApplicationClient

from services.site.core.pending_sign_ins import PENDING_S, PendingSignIn
from services.site.core.people import Person, Profile, SignupPolicy
from services.site.ports import IdentityProvider, PeopleStore, SignInFailed

log = structlog.get_logger()

VERIFIER_LENGTH = 64


@dataclass(frozen=True)
class Begun:
    """Where the browser goes, and what it must bring back in its cookie."""

    url: str
    pending: PendingSignIn


@dataclass(frozen=True)
class SignedIn:
    """A person whom the provider confirmed and the rule admits, and the name of the route they wanted."""

    person: Person
    next: str
    is_new: bool


class Refused(SignInFailed):
    """The provider confirmed who it is, and the rule does not admit them."""

    def __init__(self, profile: Profile, reason: str) -> None:
        super().__init__(reason)
        self.profile = profile


def sha256(secret: str) -> str:
    """Return how a random secret is stored."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class SignIn:
    """The use case, over providers and a store."""

    def __init__(
        self,
        providers: Mapping[str, IdentityProvider],
        store: PeopleStore,
        policy: SignupPolicy,
        *,
        origin: Callable[[], str],
        now: Callable[[], float],
    ) -> None:
        self.providers = providers
        self._store = store
        self._policy = policy
        self._origin = origin
        self._now = now

    async def begin(self, provider: str, next_name: str) -> Begun:
        """Begin a sign-in. Raises `ProviderFailed`: the provider cannot be reached."""
        state, verifier = secrets.token_urlsafe(32), WebApplicationClient("").create_code_verifier(VERIFIER_LENGTH)
        challenge = WebApplicationClient("").create_code_challenge(verifier, "S256")
        url = await self.providers[provider].authorize_url(
            state=state, challenge=challenge, redirect_uri=self._redirect_uri(provider)
        )
        ends_at = int(self._now()) + PENDING_S
        pending = PendingSignIn(state=state, provider=provider, verifier=verifier, next=next_name, ends_at=ends_at)
        return Begun(url, pending)

    async def finish(self, provider: str, query: Mapping[str, str], pending: PendingSignIn | None) -> SignedIn:
        """Finish a sign-in with what the provider sent the browser back with. `pending`: that of the query's state.

        Raises:
            Refused: the rule does not admit them.
            ProviderFailed: the provider cannot be used.
            SignInFailed: the state is not this browser's, or the provider did not confirm who it is.
        """
        if pending is None or pending.provider != provider:
            raise SignInFailed(
                "This sign-in was begun in another browser or at another address, was used already, or took too long. "
                f"Begin it again at {self._origin()}."
            )
        if "error" in query:
            denied = query["error"] == "access_denied"
            raise SignInFailed("You did not allow the sign-in." if denied else "The provider refused the sign-in.")
        if not query.get("code"):
            raise SignInFailed("The provider sent no code.")
        profile = await self.providers[provider].read_profile(
            code=query["code"],
            verifier=pending.verifier,
            redirect_uri=self._redirect_uri(provider),
            organisations=sorted(self._policy.organisations) if self._policy.needs_organisations else (),
        )
        known = await self._store.find_person(profile.identity)
        reason = self._policy.refusal(profile, is_known=known is not None)
        if known is not None and known.blocked_at is not None:
            reason = "This account is blocked. Ask the operator."
        if reason is not None:
            log.info("sign_in_refused", identity=profile.identity)
            raise Refused(profile, reason)
        person = await self._store.save_person(profile, self._now())
        return SignedIn(person, pending.next, is_new=known is None)

    def _redirect_uri(self, provider: str) -> str:
        return f"{self._origin()}/sign-in/{provider}/callback"
