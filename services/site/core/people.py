"""Who a person is, what role they have, and who may sign up."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from shared.units import DAY_S, HOUR_S


class Role(IntEnum):
    """Each may do what those before it may."""

    USER = 1
    VIEWER = 2
    OPERATOR = 3

    @property
    def label(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """An account as its provider described it just now."""

    identity: str
    """The provider and the account's number there: `github:583231`. Logins are renamed; this is not."""
    login: str
    name: str | None = None
    organisations: frozenset[str] = field(default_factory=frozenset)
    """Those of the organisations that were asked for."""
    hidden: frozenset[str] = field(default_factory=frozenset)
    """Those of which the provider does not say whether the person is a member."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody with an account here."""

    identity: str
    login: str
    name: str | None
    role: Role
    created_at: float
    signed_in_at: float
    blocked_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class SignupPolicy:
    """The configuration's rules."""

    signup: Literal["closed", "list", "open"]
    allowed: frozenset[str]
    organisations: frozenset[str]
    operators: frozenset[str]
    viewers: frozenset[str]

    def role_of(self, identity: str) -> Role:
        if identity in self.operators:
            return Role.OPERATOR
        return Role.VIEWER if identity in self.viewers else Role.USER

    @property
    def needs_organisations(self) -> bool:
        """Whether a provider has to be asked for them."""
        return self.signup == "list" and bool(self.organisations)

    def has_removed(self, identity: str) -> bool:
        """Return whether the list no longer has somebody; of organisations, only a sign-in can tell."""
        is_listed = self.organisations or identity in self.allowed or self.role_of(identity) > Role.USER
        return self.signup == "list" and not is_listed

    def refusal(self, profile: Profile, *, is_known: bool) -> str | None:
        """Return why this account may not sign in; None: it may. `is_known`: it has signed in before."""
        if self.role_of(profile.identity) > Role.USER or self.signup == "open":
            return None
        if self.signup == "closed":
            return None if is_known else "Sign-up is closed. Ask the operator for an account."
        if profile.identity in self.allowed or self.organisations & profile.organisations:
            return None
        hidden = ", ".join(sorted(self.organisations & profile.hidden))
        return "Your account is not on the list. Ask the operator to add it." + (
            f" Whether you belong to {hidden} was not visible: the organisation has to approve this site."
            if hidden
            else ""
        )


@dataclass(frozen=True)
class SessionLimits:
    """How long a session lasts: seconds without a request, and in all."""

    idle_s: float
    max_s: float

    def of(self, role: Role) -> "SessionLimits":
        """Return the limits of this role: an operator's are short, whatever is configured."""
        if role < Role.OPERATOR:
            return self
        return SessionLimits(min(self.idle_s, HOUR_S), min(self.max_s, DAY_S / 2))
