"""Bucket `keys`: SHA-256 of an API key to what it may do. The key itself is stored nowhere."""

import hashlib
from decimal import Decimal

from shared.messages.codec import Message
from shared.messages.values import Count, UnixSeconds, check_amounts


class KeyRecord(Message, frozen=True, kw_only=True, tag="key.v1"):
    """One key. Times are Unix seconds."""

    id: str
    name: str
    created_at: UnixSeconds
    models: tuple[str, ...] | None = None
    """Allowed models; None allows all."""
    expires_at: UnixSeconds | None = None
    revoked_at: UnixSeconds | None = None
    replaced_at: UnixSeconds | None = None
    """When a new secret replaced this one, which is valid until `expires_at`; both have the key's id and limits."""
    requests_per_minute: Count | None = None
    """This and the other limits: a positive whole number, None is unlimited."""
    tokens_per_minute: Count | None = None
    """Prompt and completion."""
    concurrency: Count | None = None
    """Requests at once, held ones included."""
    monthly_tokens: Count | None = None
    """Prompt and completion of a calendar month in UTC."""
    wakes_per_hour: Count | None = None
    """Wakes of machines that its requests may cause; None: as the gateway's configuration has it, as the next."""
    wake_cost_per_day: Decimal | None = None
    """USD that they may cost in a UTC day."""
    owner: str | None = None
    """Whose key it is: an identity such as `github:583231`. None: the operator's."""
    hint: str | None = None
    """The last four characters of the secret, by which its owner recognises it."""
    made_by: str | None = None
    """Who created it, an identity; None: a command."""
    revoked_by: str | None = None
    """Who revoked it, an identity; None: a command."""

    def __post_init__(self) -> None:
        check_amounts(self.wake_cost_per_day)

    @property
    def is_limited(self) -> bool:
        limits = (self.requests_per_minute, self.tokens_per_minute, self.concurrency, self.monthly_tokens)
        return limits != (None, None, None, None)  # asked several times per request: no generator

    def usable(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def allows(self, model: str) -> bool:
        return self.models is None or model in self.models


def digest(key: str | bytes) -> str:
    """The bucket's key for an API key: its SHA-256 in lower-case hex."""
    return hashlib.sha256(key if isinstance(key, bytes) else key.encode("utf-8", "surrogateescape")).hexdigest()
