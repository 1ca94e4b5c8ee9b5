"""A measured load: what `spotinference bench` keeps in the bucket `reports`, and publishes."""

import msgspec

from shared.messages.codec import Message
from shared.messages.meter_figures import Spread
from shared.messages.values import Seconds, UnixSeconds


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of each side: chat completions, streamed, `temperature` 0, each prompt another one."""

    concurrency: int
    """Streams at once."""
    requests: int
    """Of each side; the pairs come on top."""
    rounds: int
    """In so many turns, first one side, then the other, the next time the other way round."""
    prompt_tokens: int
    """About: a word is taken for a token. What the engine counted is with each side."""
    tokens: int
    """`max_tokens`."""
    ignore_eos: bool
    """Whether the engine was told to go on to `max_tokens` whatever it says."""
    pairs: int
    """Requests for one token, one at a time, by turns through the gateway and directly."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One way to the engine, over all rounds. Spreads are exact and of the requests that succeeded."""

    requests: int
    failed: int
    seconds: Seconds
    """Of its rounds, each from its first request to the end of its last answer."""
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
    """Of one core, used by the client that measured: near 1 it measured itself."""


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
    """That were ready for the model: more than one, and the gateway spread the load over them."""
    engine: str
    """As it names itself; empty: it does not."""
    engine_version: str
    gateway_version: str
    """Of the command, which is installed with it."""
    load: Load
    gateway: Side
    direct: Side
    added: Spread | None
    """Seconds that the gateway added to the first token of the pairs: differences, so some may be below 0."""
    published_at: UnixSeconds | None = None
    """The newest published run of a model and tier is the figure that the site shows."""
