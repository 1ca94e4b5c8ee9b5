"""The sections of the configuration file, one per service, and `Config`, the whole file."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from shared.config.fleet import IdlePolicy, Machine, Model, Tier
from shared.config.identity import GithubSection, KeyLimitsSection, OidcSection
from shared.config.invoices import CurrencyRate, InvoiceSource
from shared.config.providers import ProviderSection
from shared.config.values import Bounds, Duration, Interval, Money, Port, PositiveInt, Section
from shared.units import DAY_S

_BAND_STEPS = "0.05 0.10 0.15 0.20 0.30 0.50 0.75 1 1.50 2 3 5 7.50 10 15 20 30 50 75 100"


class BusSection(Section, frozen=True, kw_only=True):
    """Where NATS is. Without `url`, services use the embedded server of the suite that runs in the data directory."""

    url: str | None = None
    urls: tuple[str, ...] = ()
    """The servers of a cluster, instead of `url`."""
    ca_file: Path | None = None
    """The CA of the servers' certificates. Default: the system's."""
    nkey_file: Path | None = None
    """The seed of the user's key. `{user}` stands for the service's name, `operator` for commands."""
    creds_file: Path | None = None
    """The user's token and seed, instead of `nkey_file`; the same holds for `{user}`."""
    max_view_age: Duration = Duration(300)
    """A service whose view of a bucket has not been confirmed as current for this long is not ready."""
    replicas: Annotated[int, Bounds(1, 5)] = 1
    """Copies of each stream in a cluster. `provision` never lowers the count of an existing stream."""
    usage_max_bytes: Annotated[int, Bounds(1024 * 1024)] | None = None
    """How much usage the bus may hold, on each server with a copy. Beyond it usage waits in the outboxes, and the
    streams that control the fleet still have room. Default: as much as the servers have."""


class DatabaseSection(Section, frozen=True, kw_only=True):
    """SQLAlchemy's URL of the ledger and the books. The default is SQLite files in the data directory.

    A URL with a password belongs in the file that `url_file` names, not here.
    """

    url: str | None = None
    url_file: Path | None = None


class ServiceSection(Section, frozen=True, kw_only=True):
    """The settings that every service has."""

    host: str = "127.0.0.1"
    metrics_host: str = "127.0.0.1"
    """For `/livez`, `/readyz` and `/metrics`, which need no key."""
    metrics_port: Port = 0
    drain_grace: Duration = Duration(20)
    """How long running streams and batches may take after SIGTERM; below Kubernetes' 30 s."""

    @property
    def drain_s(self) -> float:
        """What the whole drain may take, but for its last seconds."""
        return self.drain_grace


class GatewaySection(ServiceSection, frozen=True, kw_only=True):
    port: Port = 8080
    drain_delay: Duration = Duration(0)
    """How long the gateway goes on accepting connections after SIGTERM while it is not ready: until every balancer in
    front of it has noticed. `drain_grace` begins then."""
    unready_without_bus: Interval = Duration(60)
    """How long the youngest gateway stays ready without the bus. The eldest does for almost twice as long."""
    hold_cap: Annotated[Duration, Bounds(0.001)] = Duration(600)
    """The longest that a request waits for a wake."""
    max_waiting: PositiveInt = 10_000
    max_waiting_per_key: PositiveInt = 1_000
    wakes_per_hour: PositiveInt = 20
    """How many wakes the requests of one key may cause, unless the key has its own limit."""
    wake_cost_per_day: Money = Money("20.00")
    """USD per UTC day that those wakes may cost: the price of woken machines until their first use."""
    headers_held: Duration = Duration(10)
    """How long a waiting stream holds back its status line, so that quick failures get a true status."""
    heartbeat: Interval = Duration(10)
    wake_repeat: Interval = Duration(5)
    workers: PositiveInt = 1  # processes that share the port
    max_connections: PositiveInt = 20_000
    """Client connections per process. A further one replaces the connection that has been idle the longest."""
    max_connections_per_address: PositiveInt | None = None
    """From one address, such as a proxy's; a further one replaces its own idle one. The default is half of what the
    limit of open files allows."""
    keepalive_timeout: Interval = Duration(75)
    """How long an idle client connection stays open: longer than the SDKs' pools keep theirs."""
    max_head_bytes: Annotated[int, Bounds(1024)] = 32 * 1024
    head_timeout: Interval = Duration(10)
    max_body_bytes: Annotated[int, Bounds(1024)] = 32 * 1024 * 1024
    body_timeout: Interval = Duration(30)
    max_buffered_bytes: int | None = None
    """Memory for all keys: request bodies being received or held, and whole responses until the client reads them. At
    least `max_body_bytes`. The default follows the container's memory limit."""
    max_buffered_bytes_per_key: int | None = None
    """The same for one key. Default: a quarter of it, at most 256 MiB."""
    write_timeout: Interval = Duration(60)
    """How long a client may leave its stream unread before the connection is closed."""
    connect_timeout: Interval = Duration(5)
    first_byte_timeout: Interval = Duration(600)
    """From sending a request to the engine until the first byte of its response: a long prefill is silent for
    minutes."""
    read_timeout: Interval = Duration(600)
    """Between two reads of a response."""
    max_event_bytes: Annotated[int, Bounds(65536)] = 4 * 1024 * 1024
    """Size of one event in an engine's stream. It is processed in one go, so a large one delays other requests."""
    cors_origins: tuple[str, ...] = ()
    """Web pages whose scripts may use the API, such as `https://chat.example.org`; `*` allows any."""
    access_log: bool = True
    """Log a line for each request."""
    outbox_max_bytes: Annotated[int, Bounds(65536)] = 1024 * 1024 * 1024
    """Usage that is not in the ledger yet. A gateway that reaches this bound stops serving rather than lose usage."""

    @property
    def drain_s(self) -> float:
        return self.drain_delay + self.drain_grace


class WakerSection(ServiceSection, frozen=True, kw_only=True):
    fleet: str | None = None
    """The tag of our machines at a cloud. A machine that carries it and is not configured is put to sleep."""
    idle_policy: IdlePolicy = "fixed"
    """`fixed` waits for `idle_timeout`, `break_even` until idling has cost a wake, `histogram` follows past gaps."""
    idle_timeout: Duration = Duration(900)
    min_awake: Duration | None = None
    """The shortest time from ready to asleep (default: none), and how long a woken machine that serves nobody stays
    awake (default: two minutes)."""
    max_cycles_per_hour: Annotated[int, Bounds(0)] | None = None
    """After this many wakes within an hour, a machine stays awake. Default: no bound."""
    keep_warm: tuple[str, ...] = ()
    """When one machine of the tier is kept awake: `"mon-fri 09:00-18:00"`, in UTC unless a time zone follows."""
    wait_price_per_minute: Money = Money("0")
    """What a minute of waiting for a wake costs, in USD. Used by `break_even` and `plan`."""
    wake_cap: Interval | None = None
    """The longest that one wake lasts. Default: `hold_cap`."""
    restart_limit: PositiveInt = 3
    """How often one machine is started within one wake."""
    hedge_margin: Duration = Duration(30)
    """The next machine is woken too when the time left is shorter than its usual wake plus this margin."""
    booting_limit: Duration = Duration(240)
    """From the accepted call until the provider reports the machine as running."""
    reaching_limit: Duration = Duration(180)
    """Until the machine's network answers."""
    loading_limit: Duration = Duration(480)
    """Until its engine answers."""
    first_token_limit: Duration = Duration(60)
    call_timeout: Duration = Duration(30)
    """For one call to a provider."""
    probe_interval: Annotated[Duration, Bounds(0.01)] = Duration(0.25)
    demand_timeout: Duration = Duration(15)
    """A wake request older than this is ignored."""
    gateway_timeout: Annotated[Duration, Bounds(4)] = Duration(10)
    """A gateway that has been silent for this long is gone, and drains no longer wait for it."""


class MeterSection(ServiceSection, frozen=True, kw_only=True):
    batch: PositiveInt = 2000
    """Events in one transaction: at most a second of work, most of it for the sums that the events share."""
    keep_events: Annotated[Duration, Bounds(40 * DAY_S)] = Duration(40 * DAY_S)
    """How long single events are kept; their sums stay. An event that arrives later than this is not counted. The
    stream can replay events up to 40 days old, which must be known until then."""
    source_silence: Annotated[Duration, Bounds(60)] = Duration(DAY_S)
    """A gateway that has been silent for this long has ended, and a day no longer waits for its usage."""
    scrape_interval: Interval = Duration(15)
    """Between two readings of an engine's own counters."""


class BillingSection(ServiceSection, frozen=True, kw_only=True):
    tier_tag: str = "tier"
    daily_budget: Money | None = None
    """USD per UTC day for the whole fleet. Default: no gate."""
    budget_warning: Money = Money("0.8")
    """The gate warns once this share of a daily budget is spent."""
    when_dark: Literal["close", "open"] = "close"
    """What a gate does while today's spend is unknown."""
    observation_timeout: Duration = Duration(300)
    """A gate closes when its budget figure, or the provider's bill behind it, is older than this."""
    bill_interval: Interval = Duration(60)
    """Between two readings of a provider's running bill."""
    direction_weights: dict[Literal["input", "cached", "output"], Money] = msgspec.field(
        default_factory=lambda: {"input": Money("1"), "cached": Money("0.1"), "output": Money("4")}
    )
    """How the spend is split between the directions' tokens; only the proportions matter."""
    append_sources: tuple[str, ...] = ()
    """Sources whose files add to earlier deliveries instead of replacing them."""
    rate: tuple[CurrencyRate, ...] = ()
    source: tuple[InvoiceSource, ...] = ()
    band_steps: tuple[Money, ...] = tuple(map(Money, _BAND_STEPS.split()))
    """The steps of the price list, in USD per million tokens."""
    band_min_tokens: PositiveInt = 1_000_000
    """A model with fewer tokens in seven days gets no new price band."""


class SiteSection(ServiceSection, frozen=True, kw_only=True):
    port: Port = 8081
    title: str = "spotinference"
    """The name of the service as its pages show it."""
    public_url: str | None = None
    """The origin at which browsers reach the site. Default: `http://127.0.0.1` and the port."""
    api_url: str | None = None
    """The origin at which clients reach the gateway, shown on the pages. Default: `http://127.0.0.1` and its port."""
    signup: Literal["closed", "list", "open"] = "closed"
    """Who gets an account at the first sign-in, beside operators and viewers: nobody, the allowed ones, or anybody."""
    allowed: tuple[str, ...] = ()
    """Identities, such as `github:583231`."""
    organisations: tuple[str, ...] = ()
    """Members of these may sign up as well."""
    operators: tuple[str, ...] = ()
    viewers: tuple[str, ...] = ()
    session_idle: Annotated[Duration, Bounds(60)] = Duration(DAY_S / 2)
    """How long a session lasts without a request."""
    session_max: Annotated[Duration, Bounds(60)] = Duration(7 * DAY_S)
    """How long a session lasts at most."""
    audit_kept: Annotated[Duration, Bounds(365 * DAY_S)] = Duration(400 * DAY_S)
    """How long the audit remembers what somebody did."""
    key_max_age: Annotated[Duration, Bounds(60)] | None = None
    """The longest that a key made on the site is valid. Default: for ever, if its owner wants."""
    key_limits: KeyLimitsSection | None = None
    trusted_proxies: tuple[str, ...] = ()
    """Networks of the proxies in front of the site, whose `X-Forwarded-For` names the client."""
    github: GithubSection | None = None
    oidc: OidcSection | None = None

    @property
    def is_https(self) -> bool:
        return self.public_url is not None and self.public_url.startswith("https://")

    @property
    def warning(self) -> str | None:
        """What is allowed, and probably not meant."""
        is_limited = self.key_limits not in (None, KeyLimitsSection())
        if self.signup != "open" or is_limited or (self.github is None and self.oidc is None):
            return None
        return "anybody may sign up and make keys without limits: set [site.key_limits], or another signup"


class OtelSection(Section, frozen=True, kw_only=True):
    """Where usage is reported to, beside the ledger."""

    endpoint: str | None = None
    """The base URL of an OpenTelemetry collector's OTLP over HTTP. Default: nothing is reported."""


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration file."""

    bus: BusSection = BusSection()
    database: DatabaseSection = DatabaseSection()
    gateway: GatewaySection = GatewaySection()
    waker: WakerSection = WakerSection()
    meter: MeterSection = MeterSection()
    billing: BillingSection = BillingSection()
    site: SiteSection = SiteSection()
    otel: OtelSection = OtelSection()
    provider: ProviderSection = ProviderSection()
    tier: tuple[Tier, ...] = ()
    machine: tuple[Machine, ...] = ()
    model: tuple[Model, ...] = ()

    @property
    def wake_cap(self) -> Duration:
        """The longest that one wake lasts."""
        return self.gateway.hold_cap if self.waker.wake_cap is None else self.waker.wake_cap

    @property
    def api_url(self) -> str:
        """The origin at which clients reach the gateway."""
        return self.site.api_url or f"http://127.0.0.1:{self.gateway.port}"

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
        """The machines that serve a model: in the order of its lineup, then of the file."""
        return tuple(m for tier in model.lineup for m in self.machine if m.tier == tier)
