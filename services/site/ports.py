"""What the site needs from identity providers."""

from collections.abc import Sequence
from typing import Protocol

from services.site.core.people import Person, Profile
from shared.errors import SpotinferenceError


class SignInFailed(SpotinferenceError):
    """A provider did not confirm who somebody is. The text is for that person, and holds no secret."""


class ProviderFailed(SignInFailed):
    """The provider is away, answers nonsense or does not accept this site: nothing that the person can mend."""


class IdentityProvider(Protocol):
    """Confirms who somebody is by the authorization code flow with PKCE."""

    name: str
    """As in paths and identities: `github`, `oidc`."""
    label: str
    """As people know it."""

    async def authorize_url(self, *, state: str, challenge: str, redirect_uri: str) -> str:
        """Return where the browser goes. Raises `ProviderFailed`."""
        ...

    async def read_profile(
        self, *, code: str, verifier: str, redirect_uri: str, organisations: Sequence[str]
    ) -> Profile:
        """Exchange the code and read the account; the token is revoked and forgotten. Raises `SignInFailed`."""
        ...


class PeopleStore(Protocol):
    """People. Times are Unix seconds."""

    async def find_person(self, identity: str) -> Person | None: ...

    async def save_person(self, profile: Profile, now: float) -> Person:
        """Create the person, or note their login and name of today."""
        ...
