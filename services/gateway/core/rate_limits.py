"""The limits of API keys: admission, the reservations of running requests, and their settlement.

A request reserves its estimated tokens; when it ends, it settles what it used and returns the rest. Nothing here waits
for another service: the ledger's monthly sums and the other gateways' usage are in memory.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from services.gateway.core.key_usage import NONE, PER_MINUTE, KeyUsage
from services.gateway.core.quota_coordinator import QuotaCoordinator
from shared.messages.gateway import KeyQuota, QuotaReport
from shared.messages.keys import KeyRecord
from shared.messages.meter import KeyMonth, month_of

LimitName = Literal["requests", "tokens", "concurrency", "month"]
NAMES: tuple[LimitName, ...] = ("requests", "tokens", "concurrency", "month")
_WORDS = ("requests per minute", "tokens per minute", "requests at once")
_HEADERS = [
    b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%b\r\n" % (of, of, of)
    for of in (b"requests", b"tokens")
]
UNMET_SECONDS = 0.25
"""How long an unsettled request counts: it retries every 20 ms, for 100 ms at most."""


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """A limit is reached. `retry_after` is whole seconds, 1 to 60; it means nothing for the month."""

    which: LimitName
    limit: int
    retry_after: int

    def error(self) -> ApiError:
        if self.which == "month":
            return errors.insufficient_quota(self.limit)
        return errors.rate_limited(f"{self.limit} {_WORDS[NAMES.index(self.which)]}", self.retry_after)


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Another gateway may hold what is left of the limit: try again soon, or call `RateLimiter.give_up`."""

    refusal: LimitExceeded


@dataclass(eq=False, slots=True)
class Reservation:
    """What one admitted request reserves until it is settled."""

    _usage: KeyUsage
    _minute: int
    _month: int
    _on_change: Callable[[], None]
    _is_settled: bool = False

    def update(self, tokens: int) -> None:
        """Report the prompt and completion tokens so far: they count once they exceed the reservation."""
        if not self._is_settled:
            minute, month = max(tokens, self._minute), max(tokens, self._month)
            self._usage.minute_held += minute - self._minute
            self._usage.month_held += month - self._month
            self._minute, self._month = minute, month

    def settle(self, tokens: int, now: float, seq: int | None) -> None:
        """Replace the reservation by the tokens used; later calls do nothing.

        `seq` is the `source_seq` of the usage event; None if there is none.
        """
        if self._is_settled:
            return
        self._is_settled = True
        usage = self._usage
        usage.running -= 1
        usage.minute_held -= self._minute
        usage.month_held -= self._month
        if tokens > 0:
            usage.slide(int(now))
            usage.count(0, tokens)
            if seq is not None:
                usage.spend(tokens, seq)
        self._on_change()


class RateLimiter:
    """The limits of all keys at this gateway.

    `months` has the ledger's sums by key id; `started` and `now` are Unix seconds.
    """

    def __init__(self, gateway: str, started: float, months: Mapping[str, KeyMonth]) -> None:
        self.coordinator = QuotaCoordinator(gateway, started)
        self.hits: Counter[str] = Counter(dict.fromkeys(NAMES, 0))
        """Rejections by limit."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change that the other gateways should learn of; not called while there are none."""
        self.shared_usage: Callable[[float], dict[str, KeyQuota]] = lambda _now: {}
        """Returns what else is shared by leases, by a name that no key has."""
        self.stale_at = float("inf")
        """When the last report goes stale by itself, as a second drops out of the last minute."""
        self._confirmed_seq = 0
        self._months = months
        self._keys: dict[str, KeyUsage] = {}

    def admit(self, key: KeyRecord, tokens: int, now: float) -> Reservation | LimitExceeded | Unsettled:
        """Admit a request, and reserve what it may use.

        `tokens`: the estimated prompt and the most completion tokens; more than a limit counts as the whole limit.
        """
        usage = self._usage(key.id, now)
        recorded = (key.requests_per_minute, key.tokens_per_minute, key.concurrency, key.monthly_tokens)
        usage.limits = (*recorded[:3], self._left_of_month(key, now))
        minute = tokens if key.tokens_per_minute is None else min(tokens, key.tokens_per_minute)
        month = tokens if key.monthly_tokens is None else min(tokens, key.monthly_tokens)
        needed, used = (1, minute, 1, month), usage.used
        elsewhere = self.coordinator.used_elsewhere(key.id, now)
        unmet, is_alone = [0, 0, 0, 0], self.coordinator.is_alone
        for at, limit in enumerate(usage.limits):
            if limit is None:
                continue
            after = used[at] + needed[at]
            over = after + elsewhere[at] - limit
            if over > 0:
                self.hits[NAMES[at]] += 1
                wait = usage.seconds_until(at, limit, over) if at < PER_MINUTE else 1
                return LimitExceeded(NAMES[at], recorded[at] or 0, wait)
            if not is_alone and after > self.coordinator.ceiling(key.id, at, limit):
                unmet[at] = needed[at]
        usage.unmet, usage.unmet_at = (unmet[0], unmet[1], unmet[2], unmet[3]), now
        self.notify_peers()
        if usage.unmet != NONE:
            at = next(at for at, amount in enumerate(unmet) if amount)
            return Unsettled(LimitExceeded(NAMES[at], recorded[at] or 0, 1))
        usage.count(1, 0)
        usage.running += 1
        usage.minute_held += minute
        usage.month_held += month
        return Reservation(usage, minute, month, self.notify_peers)

    def give_up(self, unsettled: Unsettled) -> LimitExceeded:
        """Stop retrying: count the limit as reached."""
        self.hits[unsettled.refusal.which] += 1
        return unsettled.refusal

    def headers(self, key: KeyRecord, now: float) -> bytes:
        """Return the `x-ratelimit-*` header lines of the key's per-minute limits, by the usage at all gateways."""
        usage, elsewhere = self._usage(key.id, now), self.coordinator.used_elsewhere(key.id, now)
        used, lines = usage.used, b""
        for at, limit in enumerate((key.requests_per_minute, key.tokens_per_minute)):
            if limit is not None:
                clear = 60 if elsewhere[at] else usage.seconds_until_clear(at)
                values = (limit, max(0, limit - used[at] - elsewhere[at]), b"%ds" % clear if clear < 60 else b"1m0s")
                lines += _HEADERS[at] % values
        return lines

    def on_confirmed(self, seq: int) -> None:
        """Note that the ledger has every usage event of this gateway up to `seq`."""
        self._confirmed_seq = max(self._confirmed_seq, seq)

    def report(self, now: float, *, leaving: bool = False) -> QuotaReport:
        """Return the report for the other gateways, and drop keys that are no longer in use."""
        keys = self.shared_usage(now)
        self.stale_at = float("inf")
        for key_id in list(self._keys):
            usage = self._usage(key_id, now)
            if not 0 <= now - usage.unmet_at < UNMET_SECONDS:
                usage.unmet = NONE
            used = usage.used
            if not any(used) and not any(usage.unmet):
                del self._keys[key_id]
            else:
                self.stale_at = min(self.stale_at, usage.slides_at)
                keys[key_id] = KeyQuota(used=used, limits=usage.limits, wanted=usage.unmet)
        return self.coordinator.report(keys, now, leaving=leaving)

    def _usage(self, key_id: str, now: float) -> KeyUsage:
        usage = self._keys.get(key_id)
        if usage is None:
            usage = self._keys[key_id] = KeyUsage(int(now))
        usage.slide(int(now))
        usage.confirm(self._confirmed_seq)
        return usage

    def _left_of_month(self, key: KeyRecord, now: float) -> int | None:
        """Return the key's monthly limit minus what the ledger has counted."""
        ledger = self._months.get(key.id)
        if key.monthly_tokens is None or ledger is None or ledger.month != month_of(now):
            return key.monthly_tokens
        return max(0, key.monthly_tokens - ledger.tokens)

    def notify_peers(self) -> None:
        """Call `on_change`, unless this gateway is alone."""
        if not self.coordinator.is_alone:
            self.on_change()
