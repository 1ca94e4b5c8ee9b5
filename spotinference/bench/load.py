"""The load: rounds of requests, in turn through the gateway and directly, then pairs of requests one at a time."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, cycle, islice

import aiohttp
import msgspec

from shared.errors import SpotinferenceError
from shared.messages.bench import Load
from spotinference.bench.streamed_request import Target, TimedRequest, send_request

SILENCE_SECONDS = 120.0
"""Between two chunks of an answer of a warm engine."""
WARM_UP_REQUESTS = 2
"""Per side, not measured: they warm up connections, compiled kernels and the template."""
_TEXT = (
    "the river runs past an old mill where people meet to trade bread and stories while the water turns its wheel and "
    "children count boats that carry wood and stone down to the city on a slow warm day in early summer"
)
PREFIX_TOKENS = 8
_number = count()


class BenchFailed(SpotinferenceError):
    """The run failed; the message says why and what to do."""


@dataclass
class Measurements:
    """The results. `cpu`: CPU seconds of the client itself in the rounds of each side."""

    gateway: list[list[TimedRequest]] = field(default_factory=list)
    direct: list[list[TimedRequest]] = field(default_factory=list)
    gateway_cpu: float = 0.0
    direct_cpu: float = 0.0
    pairs: list[tuple[TimedRequest, TimedRequest]] = field(default_factory=list)


def make_prompt(tokens: int) -> str:
    """Return a prompt of about this many tokens. Each begins differently, so that none is in the engine's cache."""
    text = islice(cycle(_TEXT.split()), max(0, tokens - PREFIX_TOKENS))
    return " ".join([f"{next(_number)}-{time.time_ns() % 10**9}", *text])


async def warm_up(session: aiohttp.ClientSession, target: Target, load: Load, wait: float) -> Load:
    """Warm up a target and return the load as it accepts it: without `ignore_eos` if it rejects that.

    The first request may wait for a wake, at most `wait` seconds.
    """
    patient = aiohttp.ClientTimeout(total=wait)
    async with aiohttp.ClientSession(timeout=patient, trust_env=False) as waiting:
        prompt, fitting = make_prompt(load.prompt_tokens), load
        shot = await send_request(waiting, target, prompt, load.tokens, ignore_eos=load.ignore_eos)
        if shot.status == 400 and load.ignore_eos:
            fitting = msgspec.structs.replace(load, ignore_eos=False)
            shot = await send_request(waiting, target, prompt, load.tokens, ignore_eos=False)
    if shot.fault is not None:
        what = f"{shot.status} {shot.fault}" if shot.status not in (0, 200) else shot.fault
        raise BenchFailed(f"{target.origin} does not answer for {target.model!r}: {what}")
    await asyncio.gather(*(_send_one(session, target, fitting, load.tokens) for _ in range(WARM_UP_REQUESTS)))
    return fitting


async def measure(
    session: aiohttp.ClientSession,
    gateway: Target,
    direct: Target,
    load: Load,
    results: Measurements,
    *,
    on_request: Callable[[], None],
) -> None:
    """Fill `results` as requests end, so that it holds what was measured when this is cancelled.

    `on_request` is called after each request.
    """
    for number in range(load.rounds):
        share = load.requests // load.rounds + (number < load.requests % load.rounds)
        for through_gateway in (number % 2 == 0, number % 2 != 0):
            target, rounds = (gateway, results.gateway) if through_gateway else (direct, results.direct)
            rounds.append([])
            begun = time.process_time()
            try:
                await _run_round(session, target, load, share, shots=rounds[-1], on_request=on_request)
            finally:
                spent = time.process_time() - begun
                if through_gateway:
                    results.gateway_cpu += spent
                else:
                    results.direct_cpu += spent
    for number in range(load.pairs):
        targets = (gateway, direct) if number % 2 == 0 else (direct, gateway)
        shots = []
        for target in targets:
            shots.append(await _send_one(session, target, load, 1))
            on_request()
        results.pairs.append((shots[number % 2], shots[1 - number % 2]))


async def _run_round(
    session: aiohttp.ClientSession,
    target: Target,
    load: Load,
    requests: int,
    *,
    shots: list[TimedRequest],
    on_request: Callable[[], None],
) -> None:
    """Send one round. When a request ends, the next one begins, so that the load's concurrency is constant."""
    left = iter(range(requests))

    async def stream() -> None:
        for _ in left:
            shots.append(await _send_one(session, target, load, load.tokens))
            on_request()

    await asyncio.gather(*(stream() for _ in range(min(load.concurrency, requests))))


async def _send_one(session: aiohttp.ClientSession, target: Target, load: Load, tokens: int) -> TimedRequest:
    return await send_request(session, target, make_prompt(load.prompt_tokens), tokens, ignore_eos=load.ignore_eos)


def session_for(load: Load) -> aiohttp.ClientSession:
    """Return a session with enough kept connections for the streams of both sides. Ignores proxy settings."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=SILENCE_SECONDS)
    connector = aiohttp.TCPConnector(limit=2 * load.concurrency + 2, keepalive_timeout=4.0)
    return aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False)
