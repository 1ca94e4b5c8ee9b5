"""The sections of the configuration file, one per service, and `Config`, the whole file."""

from pathlib import Path
from typing import Literal

import msgspec

from shared.config.fleet import IdlePolicy, Machine, Model, Tier
from shared.config.invoices import CurrencyRate, InvoiceSource
from shared.config.providers import ProviderSection
from shared.config.section import Section
from shared.config.values import Duration, Money
from shared.units import DAY_S

_BAND_STEPS = "0.05 0.10 0.15 0.20 0.30 0.50 0.75 1 1.50 2 3 5 7.50 10 15 20 30 50 75 100"


class BusSection(Section, frozen=True, kw_only=True):
    """Where NATS is. `url` absent: the embedded server of the suite running in the data directory."""

    url: str | None = None
    max_view_age: Duration = Duration(300)
    """A service whose view of a bucket was last known to be current longer ago is not ready."""


class DatabaseSection(Section, frozen=True, kw_only=True):
    """SQLAlchemy's URL of the ledger and the books. Absent: SQLite files in the data directory.

    A password belongs into `url_file`'s file, not here.
    """

    url: str | None = None
    url_file: Path | None = None


class ServiceSection(Section, frozen=True, kw_only=True):
    """What every service takes. A port of 0 is any free one."""

    host: str = "127.0.0.1"
    metrics_host: str = "127.0.0.1"
    """For `/livez`, `/readyz` and `/metrics`, which ask nobody for a key."""
    metrics_port: int = 0
    drain_grace: Duration = Duration(20)
    """For streams and batches under way after SIGTERM; under Kubernetes' 30 s."""


class GatewaySection(ServiceSection, frozen=True, kw_only=True):
    port: int = 8080
    hold_cap: Duration = Duration(600)
    """The longest that a request waits for a wake."""
    max_waiting: int = 10_000
    max_waiting_per_key: int = 1_000
    wakes_per_hour: int = 20
    """Wakes that the requests of one key may cause, where the key has no limit of its own."""
    wake_cost_per_day: Money = Money("20.00")
    """USD per UTC day that they may cost: the price of woken machines until their first use."""
    headers_held: Duration = Duration(10)
    """How long a waiting stream keeps its status line back, so that quick failures have a true status."""
    heartbeat: Duration = Duration(10)
    wake_repeat: Duration = Duration(5)
    workers: int = 1  # processes that share the port
    max_connections: int = 20_000
    """Of clients, per process; one more replaces the one that has been idle the longest."""
    max_connections_per_address: int | None = None
    """From one address, such as a proxy's; one more replaces its own idle one. Absent: half of all that files allow."""
    keepalive_timeout: Duration = Duration(75)
    """For a client's connection without a request: longer than the pools of SDKs keep theirs."""
    max_head_bytes: int = 32 * 1024
    head_timeout: Duration = Duration(10)
    max_body_bytes: int = 32 * 1024 * 1024
    body_timeout: Duration = Duration(30)
    max_buffered_bytes: int = 1024 * 1024 * 1024
    """In memory, of all keys: bodies of requests that are received or held, and whole responses until they are read."""
    max_buffered_bytes_per_key: int = 256 * 1024 * 1024
    """Of one key."""
    write_timeout: Duration = Duration(60)
    """For a client that does not read: its stream's connection is cut then."""
    connect_timeout: Duration = Duration(5)
    first_byte_timeout: Duration = Duration(600)
    """From a request at the engine to the first byte of its answer: a long prefill is silent for minutes."""
    read_timeout: Duration = Duration(600)
    """Between two reads of an answer."""
    max_event_bytes: int = 4 * 1024 * 1024
    """Of one event in an engine's stream: read in one go, it may not keep the other requests waiting."""
    cors_origins: tuple[str, ...] = ()
    """Web pages whose scripts may use the API, such as `https://chat.example.org`; `*` is any. Absent: none."""
    access_log: bool = True
    """A line for each request."""
    outbox_max_bytes: int = 1024 * 1024 * 1024
    """Usage not yet in the ledger; at the bound the gateway stops serving rather than lose a count."""


class WakerSection(ServiceSection, frozen=True, kw_only=True):
    fleet: str | None = None
    """Marks our machines at a cloud. What carries it and is not configured is put to sleep."""
    idle_policy: IdlePolicy = "fixed"
    """`fixed` waits for `idle_timeout`; `break_even` for as long as a wake costs; `histogram` goes by past gaps."""
    idle_timeout: Duration = Duration(900)
    min_awake: Duration | None = None
    """The shortest time from ready to asleep, and the longest for a machine that was woken and serves nobody. Absent:
    none, and two minutes."""
    max_cycles_per_hour: int | None = None
    """Wakes of one machine within an hour, after which it stays awake. Absent: no bound."""
    keep_warm: tuple[str, ...] = ()
    """When one machine of the tier is to be awake: `"mon-fri 09:00-18:00"`, UTC unless a time zone follows."""
    wait_price_per_minute: Money = Money("0")
    """USD that a minute of somebody's waiting for a wake is worth: `break_even` and `plan` count it."""
    wake_cap: Duration | None = None
    """The longest that one wake lasts, from its beginning. Absent: as `hold_cap`."""
    restart_limit: int = 3
    """Starts of one machine within one wake."""
    hedge_margin: Duration = Duration(30)
    """The next machine is woken beside the first when less than its usual time and this is left."""
    booting_limit: Duration = Duration(240)
    """From the provider's yes until it says that the machine is up."""
    reaching_limit: Duration = Duration(180)
    """Until the machine's network answers."""
    loading_limit: Duration = Duration(480)
    """Until its engine does."""
    first_token_limit: Duration = Duration(60)
    call_timeout: Duration = Duration(30)
    """For a provider's answer to one call."""
    probe_interval: Duration = Duration(0.25)
    demand_timeout: Duration = Duration(15)
    """A wake request older than this is no demand."""
    gateway_timeout: Duration = Duration(10)
    """A gateway that was not heard for this long has gone: a drain waits no longer for it."""


class MeterSection(ServiceSection, frozen=True, kw_only=True):
    batch: int = 2000
    """Events in one transaction: most of its cost is the sums that they share, a second of work at most."""
    keep_events: Duration = Duration(40 * DAY_S)
    """One by one; their sums stay. What is older when it comes is not counted: as long as a replay can be late."""
    source_silence: Duration = Duration(DAY_S)
    """A gateway of which nothing was heard for this long has ended: a day waits no longer for more of it."""
    scrape_interval: Duration = Duration(15)
    """Between two readings of an engine's own counters."""


class BillingSection(ServiceSection, frozen=True, kw_only=True):
    tier_tag: str = "tier"
    daily_budget: Money | None = None
    """USD per UTC day, of the whole fleet; absent: no gate."""
    budget_warning: Money = Money("0.8")
    """The share of a daily budget from which on its gate warns."""
    when_dark: Literal["close", "open"] = "close"
    """What a gate does while today's spend is not known."""
    observation_timeout: Duration = Duration(300)
    """A budget figure older than this, or made without a provider's bill for so long, closes the gate."""
    bill_interval: Duration = Duration(60)
    """Between two readings of a provider's running bill."""
    direction_weights: dict[Literal["input", "cached", "output"], Money] = msgspec.field(
        default_factory=lambda: {"input": Money("1"), "cached": Money("0.1"), "output": Money("4")}
    )
    """How much of the spend a token of each direction bears; only their proportions matter."""
    append_sources: tuple[str, ...] = ()
    """Sources whose files add to what was delivered before instead of replacing it."""
    rate: tuple[CurrencyRate, ...] = ()
    source: tuple[InvoiceSource, ...] = ()
    band_steps: tuple[Money, ...] = tuple(map(Money, _BAND_STEPS.split()))
    """The price list's ladder: USD per million tokens."""
    band_min_tokens: int = 1_000_000
    """Of a model in seven days: with fewer it gets no new band."""


class Config(Section, frozen=True, kw_only=True):
    """The whole file."""

    bus: BusSection = BusSection()
    database: DatabaseSection = DatabaseSection()
    gateway: GatewaySection = GatewaySection()
    waker: WakerSection = WakerSection()
    meter: MeterSection = MeterSection()
    billing: BillingSection = BillingSection()
    provider: ProviderSection = ProviderSection()
    tier: tuple[Tier, ...] = ()
    machine: tuple[Machine, ...] = ()
    model: tuple[Model, ...] = ()

    @property
    def wake_cap(self) -> Duration:
        """The longest that one wake lasts, in seconds."""
        return self.gateway.hold_cap if self.waker.wake_cap is None else self.waker.wake_cap

    @property
    def tiers(self) -> dict[str, Tier]:
        return {t.name: t for t in self.tier}

    @property
    def machines(self) -> dict[str, Machine]:
        return {m.id: m for m in self.machine}

    @property
    def models(self) -> dict[str, Model]:
        return {m.name: m for m in self.model}

    def machines_of(self, model: Model) -> tuple[Machine, ...]:
        """The machines that serve a model, in the order of its lineup, then of the file."""
        return tuple(m for tier in model.lineup for m in self.machine if m.tier == tier)
