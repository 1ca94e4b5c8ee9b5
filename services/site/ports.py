"""What the site needs from identity providers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.site.core.people import Person, Profile
from shared.errors import SpotinferenceError


class SignInFailed(SpotinferenceError):
    """A provider did not confirm who somebody is. The text is for that person, and holds no secret."""


class IdentityProvider(Protocol):
    """Confirms who somebody is by the authorization code flow with PKCE."""

    name: str
    """As in paths and identities: `github`, `oidc`."""
    label: str
    """As people know it."""

    async def authorize_url(self, *, state: str, challenge: str, redirect_uri: str) -> str:
        """Return where the browser goes. Raises `SignInFailed`."""
        ...

    async def read_profile(
        self, *, code: str, verifier: str, redirect_uri: str, organisations: Sequence[str]
    ) -> Profile:
        """Exchange the code and read the account; the token is revoked and forgotten. Raises `SignInFailed`."""
        ...


@dataclass(frozen=True, kw_only=True)
class PendingSignIn:
    """A sign-in under way. `state_sha256` and `browser_sha256` are of values that only that browser has."""

    state_sha256: str
    browser_sha256: str
    provider: str
    verifier: str
    next: str
    """The name of the route to return to."""
    ends_at: float


class SignInStore(Protocol):
    """Sign-ins under way, and people. Times are Unix seconds."""

    async def put(self, pending: PendingSignIn, now: float) -> bool:
        """Keep it, and forget those that have ended. False: too many are under way."""
        ...

    async def take(self, state_sha256: str, browser_sha256: str, now: float) -> PendingSignIn | None:
        """Remove and return it: it is used once. None: there is none of this browser, or it has ended."""
        ...

    async def find_person(self, identity: str) -> Person | None: ...

    async def save_person(self, profile: Profile, now: float) -> Person:
        """Create the person, or note their login and name of today."""
        ...
