"""A measured load: what `spotinference bench` keeps in the bucket `reports`, and publishes."""

import msgspec

from shared.messages.codec import Message
from shared.messages.meter_figures import Spread
from shared.messages.values import Seconds, UnixSeconds


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of each side: chat completions, streamed, `temperature` 0, each with another prompt."""

    concurrency: int
    """Streams at once."""
    requests: int
    """Requests of each side; the pairs come on top."""
    rounds: int
    """Turns: each measures one side and then the other, and the order alternates."""
    prompt_tokens: int
    """Approximate: a word counts as a token. Each side has what the engine counted."""
    tokens: int
    """`max_tokens`."""
    ignore_eos: bool
    """Whether the engine was told to go on to `max_tokens` whatever it says."""
    pairs: int
    """Requests for one token, one at a time, alternately through the gateway and directly."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One way to the engine, over all rounds. Spreads are exact and of the requests that succeeded."""

    requests: int
    failed: int
    seconds: Seconds
    """The duration of its rounds, each from its first request to the end of its last answer."""
    prompt_tokens: int
    completion_tokens: int
    rate: float
    """Completion tokens / seconds: of all streams together."""
    stream_rate: Spread | None
    """Tokens per second of one stream after its first token; None: no answer had two."""
    ttft: Spread | None
    """Seconds until the first token; None: nothing succeeded."""
    tpot: Spread | None
    """Seconds for each token after the first."""
    client_cpu: float
    """The part of one core that the measuring client used: near 1, it measured itself."""


class BenchRun(Message, frozen=True, kw_only=True, tag="bench_run.v1"):
    """Bucket `reports`, key `bench.<id>`. Written by the command, read by the command and the site."""

    id: str
    """Sorts by time."""
    at: UnixSeconds
    model: str
    tier: str | None
    """None, as `machine`: the engine was given by its URL and is no machine's on record."""
    machine: str | None
    machines: int
    """Machines that were ready for the model. If there were several, the gateway spread the load over them."""
    engine: str
    """As it names itself; empty: it does not."""
    engine_version: str
    gateway_version: str
    """The version of the command, which is installed with the gateway."""
    load: Load
    gateway: Side
    direct: Side
    added: Spread | None
    """Seconds that the gateway added to the first token of the pairs: differences, so some may be below 0."""
    published_at: UnixSeconds | None = None
    """The newest published run of a model and tier is the figure that the site shows."""
