"""A month of a fleet by a seed: what its machines did, who used them, and what six vendors' bills say of it.

The same seed makes the same month everywhere.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from tests.books_proof.attribution import active
from tests.books_proof.bills import RATES, Bills, payables
from tests.books_proof.facts import DAY, HOUR, Machine, Move, Rate, Tier, Use, World
from tests.books_proof.machine_time import MachineTime

NEXT = 1_796_083_200
"""2026-12-01T00:00:00Z."""
PERIOD = (NEXT - 30 * DAY, NEXT)
"""The month that is billed."""
NOW = NEXT + 9 * HOUR
AZURE = "/subscriptions/11111111-2222-4333-8444-555555555555/resourceGroups/inference/providers/Microsoft.Compute"
MACHINES = (
    Machine("h100-1", "h100x2", "471120"),
    Machine("h100-2", "h100x2", "471121"),
    Machine("h100-3", "h100x2", "vm-17-v", ("vol-hs-9", "vol-v")),
    Machine("a100-azure", "a100x2", f"{AZURE}/virtualMachines/a100-1", (f"{AZURE}/disks/a100-1-os",)),
    Machine("a100-gcp", "a100x2", "4567890123456789012"),
    Machine("a100-oci", "a100x2", "ocid1.instance.oc1.us-sanjose-1.anzwuljr9foqhxic", ("ocid1.bootvolume.oc1..abz7v",)),
    Machine("g6e-1", "g6e", "i-0a1f3c5d7e9b1a2c3", ("vol-0aa11bb22cc33dd44",)),
    Machine("g6e-2", "g6e", "i-0b2f4c6d8e0b2a4c6", ("vol-0bb22cc33dd44ee5v",)),
)
MODELS = {"qwen3-coder": ("h100x2", "a100x2"), "llama-3.3-70b": ("a100x2", "g6e"), "smol-7b": ("g6e",)}
KEYS = tuple(f"00000000-0000-4000-8000-00000000000{number}" for number in range(6))


@dataclass
class Month:
    """Makes it, piece by piece."""

    seed: int
    requests: int
    days: int = 30
    """The last days of the month, of which there are bills and usage."""
    priced: tuple[str, ...] = ()
    """Tiers with a price, so that their hours without a charge are estimated."""
    unbilled: int = 0
    """Days of which a machine's bill does not come."""
    vendors: tuple[str, ...] = ("aws", "cur", "azure", "google", "oracle", "plain")
    """Whose bills come."""
    repeats: bool = False
    """Whether some deliveries come twice, in another order or as they were."""
    open_sources: tuple[str, ...] = ()
    """Whose invoices have no payable amount yet."""
    disputed: tuple[str, ...] = ()
    """Whose invoices say two cents more than their charges."""
    gaps: bool = False
    """Whether bills lack some hours of a machine that ran."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.moves: list[Move] = []
        self.uses: list[Use] = []

    @property
    def first(self) -> int:
        """When it begins."""
        return NEXT - self.days * DAY

    def world(self) -> World:
        """All of it, the same each time."""
        self.__post_init__()
        for machine in MACHINES:
            self.moves += self._life(machine)
        self.moves.sort(key=lambda move: move.at)
        self.uses = sorted(self._requests(), key=lambda use: use.end)
        prices = {tier: RATES[tier] for tier in self.priced}
        bills = Bills(
            random=self.random,
            first=self.first,
            days=self.days,
            period=PERIOD,
            repeats=self.repeats,
            gaps=self.gaps,
            time={machine.id: self.time(machine) for machine in MACHINES},
            machines={machine.id: machine for machine in MACHINES},
            missing=frozenset(
                ("h100-2", self.first + day * DAY) for day in self.random.sample(range(self.days), self.unbilled)
            ),
        )
        deliveries = tuple(d for d in bills.deliveries() if d.vendor in self.vendors)
        world = World(
            now=NOW,
            tiers=tuple(Tier(name, prices.get(name)) for name in RATES),
            machines=MACHINES,
            models=tuple(MODELS),
            rates=(
                Rate("EUR", Fraction("0.8571"), 1_704_067_200),
                Rate("EUR", Fraction("0.92"), self.first + self.days // 3 * DAY),
            ),
            append_sources=("oracle", "gcp"),
            deliveries=deliveries,
            moves=tuple(self.moves),
            uses=tuple(self.uses),
        )
        return replace(world, payables=tuple(payables(active(world), self.open_sources, self.disputed)))

    def time(self, machine: Machine) -> MachineTime:
        """What it did."""
        moves = (move for move in self.moves if move.machine == machine.id)
        return MachineTime(moves, (use for use in self.uses if use.machine == machine.id), NOW)

    def _seconds(self, low: int, high: int) -> Fraction:
        """A time that floats and milliseconds have exactly."""
        return Fraction(self.random.randrange(low * 8, high * 8), 8)

    def _life(self, machine: Machine) -> Iterator[Move]:
        """Sleeps and wakes; of some machines nothing is known at first."""
        at = Fraction(self.first - 3 * DAY) + self._seconds(0, HOUR)
        if self.random.random() < 0.4:
            at = Fraction(self.first + self.random.randrange(0, 4) * DAY) + self._seconds(0, DAY)
        state = "asleep"
        while at < NOW:
            key = self.random.choice(KEYS) if state == "waking" and self.random.random() < 0.9 else None
            yield Move(at, machine.id, state, key)
            stay, state = self._next(state)
            at += stay

    def _next(self, state: str) -> tuple[Fraction, str]:
        chance = self.random.random()
        match state:
            case "asleep":
                return self._seconds(HOUR, 14 * HOUR), "waking"
            case "waking":
                failed = self.random.choice(("asleep", "falling_asleep", "broken"))
                return self._seconds(60, 900), "ready" if chance < 0.8 else failed
            case "ready":
                return self._seconds(HOUR // 2, 11 * HOUR), "draining" if chance < 0.95 else "asleep"
            case "draining":
                return self._seconds(5, 300), "ready" if chance < 0.2 else "falling_asleep"
            case "falling_asleep":
                return self._seconds(10, 240), "asleep"
            case _:
                return self._seconds(60, 1800), "asleep"

    def _requests(self) -> Iterator[Use]:
        """On machines that are ready, some over midnight, some that fail."""
        ready = [
            (machine, interval.start, interval.end)
            for machine in MACHINES
            for interval in self.time(machine).intervals
            if interval.doing.cause == "warm_idle" and interval.end > self.first and interval.end - interval.start > 600
        ]
        for _ in range(self.requests):
            machine, start, end = self.random.choice(ready)
            begin = max(start, Fraction(self.first)) + self._seconds(0, int(end - max(start, Fraction(self.first))) - 1)
            last = min(begin + self._seconds(1, 240), end + 30, Fraction(NOW) - 1)
            models = [name for name, lineup in MODELS.items() if machine.tier in lineup]
            prompt = self.random.randrange(1, 60_000)
            failed = self.random.random() < 0.05
            yield Use(
                start=begin,
                end=max(last, begin + Fraction(1, 8)),
                key=self.random.choice(KEYS),
                model=self.random.choice(models),
                tier=machine.tier,
                machine=machine.id,
                prompt=prompt,
                cached=self.random.choice((0, self.random.randrange(0, prompt + 1))),
                completion=0 if failed else self.random.randrange(0, 8_000),
                failed=failed,
            )


def any_month(seed: int) -> Month:
    """One whose days, requests, bills and prices are drawn, too: some without any request, some without a vendor."""
    drawn = random.Random(seed)
    return Month(
        seed=seed,
        requests=drawn.choice((0, 50, 400)),
        days=drawn.choice((6, 8, 12)),
        priced=tuple(tier for tier in RATES if drawn.random() < 0.4),
        unbilled=drawn.choice((0, 1, 3)),
        vendors=tuple(name for name in ("aws", "cur", "azure", "google", "oracle", "plain") if drawn.random() < 0.85),
        repeats=drawn.random() < 0.3,
        open_sources=("hyperstack",) if drawn.random() < 0.7 else (),
        disputed=("azure",) if drawn.random() < 0.3 else (),
        gaps=drawn.random() < 0.5,
    )
