"""The limits of keys: what is admitted, what it holds while it runs, and what it came to.

Reserve, then settle. A request holds its estimate of tokens until its end says what it took, and gives the rest back.
Nothing here looks anything up elsewhere: the ledger's months and what the other gateways use are in memory.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from services.gateway.core.key_usage import NONE, Amounts, KeyUsage
from services.gateway.core.quota_coordinator import QuotaCoordinator
from shared.messages.gateway import KeyTold, LimitsTold
from shared.messages.keys import KeyRecord
from shared.messages.meter import KeyMonth, month_of

LimitName = Literal["requests", "tokens", "concurrency", "month"]
NAMES: tuple[LimitName, ...] = ("requests", "tokens", "concurrency", "month")
_WORDS = ("requests per minute", "tokens per minute", "requests at once")
WANT_SECONDS = 0.25
"""How long a request's want counts: it asks again every 20 ms for as long as it waits, and 100 ms at most."""
DAY_SECONDS = 86400


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """A limit is reached. `retry_after` in whole seconds, 1 to 60; of no meaning for the month."""

    which: LimitName
    limit: int
    retry_after: int

    def error(self) -> ApiError:
        if self.which == "month":
            return errors.insufficient_quota(self.limit)
        return errors.rate_limited(f"{self.limit} {_WORDS[NAMES.index(self.which)]}", self.retry_after)


@dataclass(frozen=True, slots=True)
class Unsettled:
    """There may be something left, and another gateway has it: ask again soon, or `RateLimiter.give_up`."""

    refusal: LimitExceeded


class Reservation:
    """What one admitted request holds, until its `end`."""

    __slots__ = ("_ended", "_limiter", "_minute", "_month", "_use")

    def __init__(self, limiter: "RateLimiter", use: KeyUsage, minute: int, month: int) -> None:
        self._limiter = limiter
        self._use = use
        self._minute = minute
        self._month = month
        self._ended = False

    def update(self, tokens: int) -> None:
        """Prompt and completion so far: counts once it is more than what was reserved."""
        if self._ended:
            return
        if tokens > self._minute:
            self._use.minute_held += tokens - self._minute
            self._minute = tokens
        if tokens > self._month:
            self._use.month_held += tokens - self._month
            self._month = tokens

    def settle(self, tokens: int, now: float, seq: int | None) -> None:
        """The request took so many tokens; `seq` is its usage event's number, None if it has none. Once is enough."""
        if self._ended:
            return
        self._ended = True
        use = self._use
        use.running -= 1
        use.minute_held -= self._minute
        use.month_held -= self._month
        if tokens > 0:
            use.slide(int(now))
            use.count(0, tokens)
            if seq is not None:
                use.spend(tokens, seq)
        if not self._limiter.coordinator.is_alone:
            self._limiter.on_change()


class RateLimiter:
    """Of all keys at this gateway. `months` is the ledger's word by key id; `started` and `now` are Unix seconds."""

    def __init__(self, gateway: str, started: float, months: Mapping[str, KeyMonth]) -> None:
        self.coordinator = QuotaCoordinator(gateway, started)
        self.hits: Counter[str] = Counter(dict.fromkeys(NAMES, 0))
        """Refusals by limit."""
        self.on_change: Callable[[], None] = _nothing
        """Called after each change that the other gateways should hear of; not while there is none."""
        self.mark = 0
        """Usage events of this gateway up to here are in the ledger."""
        self.stale_at = float("inf")
        """When what was told last is true no more without any request's doing: a minute has passed."""
        self._months = months
        self._keys: dict[str, KeyUsage] = {}

    def admit(self, key: KeyRecord, tokens: int, now: float) -> Reservation | LimitExceeded | Unsettled:
        """`tokens`: the prompt by estimate and the most that may come; more than a limit counts as all of it."""
        use = self._use(key.id, now)
        self._learn(use, key, now)
        per_minute, monthly = key.tokens_per_minute, key.monthly_tokens
        minute = tokens if per_minute is None or tokens < per_minute else per_minute
        month = tokens if monthly is None or tokens < monthly else monthly
        alone = self.coordinator.is_alone
        refused = (
            self._judge_alone(key, use, minute, month)
            if alone
            else self._judge(key, use, Amounts(1, minute, 1, month), now)
        )
        if refused is not None:
            return refused
        use.count(1, 0)
        use.running += 1
        use.minute_held += minute
        use.month_held += month
        if not alone:
            use.wanted = NONE
            self.on_change()
        return Reservation(self, use, minute, month)

    def give_up(self, unsettled: Unsettled) -> LimitExceeded:
        """It has been asked often enough."""
        self.hits[unsettled.refusal.which] += 1
        return unsettled.refusal

    def headers(self, key: KeyRecord, now: float) -> bytes:
        """`x-ratelimit-*` of the limits per minute that the key has, as header lines, by what all gateways use."""
        use = self._use(key.id, now)
        heard = (0, 0) if self.coordinator.is_alone else self.coordinator.used_elsewhere(key.id, now)
        lines = b""
        if (limit := key.requests_per_minute) is not None:
            clear = 60 if heard[0] else use.seconds_until_clear(tokens=False)
            lines = _lines(b"requests", limit, limit - use.requests - heard[0], clear)
        if (limit := key.tokens_per_minute) is not None:
            held = use.minute_held
            clear = 60 if heard[1] or held else use.seconds_until_clear(tokens=True)
            lines += _lines(b"tokens", limit, limit - use.tokens - held - heard[1], clear)
        return lines

    def on_confirmed(self, seq: int) -> None:
        """The ledger has every usage event of this gateway up to `seq`."""
        self.mark = max(self.mark, seq)

    def receive(self, message: LimitsTold, now: float) -> bool:
        """What another gateway told; whether to answer it."""
        return self.coordinator.receive(message, now)

    def report(self, now: float, *, leaving: bool = False) -> LimitsTold:
        """What to tell the others now. Forgets keys of which nothing is in use."""
        keys: dict[str, KeyTold] = {}
        self.stale_at = float("inf")
        for key_id in list(self._keys):
            use = self._use(key_id, now)
            if not 0 <= now - use.wanted_at < WANT_SECONDS:
                use.wanted = NONE
            used = use.used
            if not any(used) and not any(use.wanted):
                del self._keys[key_id]
            else:
                self.stale_at = min(self.stale_at, use.slides_at)
                keys[key_id] = KeyTold(used=used, limits=use.limits, wanted=use.wanted)
        return self.coordinator.report(keys, now, leaving=leaving)

    def _use(self, key_id: str, now: float) -> KeyUsage:
        second = int(now)
        use = self._keys.get(key_id)
        if use is None:
            use = self._keys[key_id] = KeyUsage(second)
        elif use.second != second:
            use.slide(second)
        if use.unconfirmed:
            use.confirm(self.mark)
        return use

    def _learn(self, use: KeyUsage, key: KeyRecord, now: float) -> None:
        """The key's limits, where its record, the ledger's word or the day is another than at its last request."""
        ledger = self._months.get(key.id) if key.monthly_tokens is not None else None
        record, word, day = use.limits_of
        today = now // DAY_SECONDS
        if record is key and word is ledger and day == today:
            return
        monthly = key.monthly_tokens
        if monthly is not None and ledger is not None and ledger.month == month_of(now):
            monthly = max(0, monthly - ledger.tokens)
        use.limits = (key.requests_per_minute, key.tokens_per_minute, key.concurrency, monthly)
        use.limits_of = (key, ledger, today)

    def _judge_alone(self, key: KeyRecord, use: KeyUsage, minute: int, month: int) -> LimitExceeded | None:
        """Where nobody else uses any of the limits; written out, for this is on every request's way."""
        requests, tokens, concurrency, monthly = use.limits
        if requests is not None and use.requests >= requests:
            return self._refuse(key, use, 0, use.requests + 1 - requests)
        if tokens is not None and use.tokens + use.minute_held + minute > tokens:
            return self._refuse(key, use, 1, use.tokens + use.minute_held + minute - tokens)
        if concurrency is not None and use.running >= concurrency:
            return self._refuse(key, use, 2, use.running + 1 - concurrency)
        if monthly is not None and use.month + month > monthly:
            return self._refuse(key, use, 3, use.month + month - monthly)
        return None

    def _judge(self, key: KeyRecord, use: KeyUsage, asked: Amounts, now: float) -> LimitExceeded | Unsettled | None:
        """The same by what the other gateways use and what they leave to this one."""
        requests, tokens, _, month = self.coordinator.used_elsewhere(key.id, now)
        # What runs elsewhere may have ended by now, so that is asked for; what a minute holds only time takes away.
        heard = (requests, tokens, 0, month)
        used, wanted = use.used, [0, 0, 0, 0]
        for at, limit in enumerate(use.limits):
            if limit is None:
                continue
            after = used[at] + asked[at]
            if after + heard[at] > limit:
                return self._refuse(key, use, at, after + heard[at] - limit)
            if after > self.coordinator.ceiling(key.id, at, limit):
                wanted[at] = asked[at]
        if wanted == [0, 0, 0, 0]:
            return None
        use.wanted, use.wanted_at = Amounts(*wanted), now
        self.on_change()
        at = next(at for at, want in enumerate(wanted) if want)
        return Unsettled(LimitExceeded(NAMES[at], _on_record(key, at), 1))

    def _refuse(self, key: KeyRecord, use: KeyUsage, at: int, over: int) -> LimitExceeded:
        self.hits[NAMES[at]] += 1
        wait = use.seconds_until(use.limits[at] or 0, over, tokens=at == 1) if at < 2 else 1
        return LimitExceeded(NAMES[at], _on_record(key, at), wait)


def _lines(name: bytes, limit: int, remaining: int, clear: int) -> bytes:
    return b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n" % (
        name,
        limit,
        name,
        max(0, remaining),
        name,
        b"%ds" % clear if clear < 60 else b"1m0s",
    )


def _on_record(key: KeyRecord, at: int) -> int:
    """The limit before what the ledger has of the month is taken off."""
    return (key.requests_per_minute, key.tokens_per_minute, key.concurrency, key.monthly_tokens)[at] or 0


def _nothing() -> None:
    return
