"""The load: requests in rounds, by turns through the gateway and against the engine, then pairs one at a time."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, cycle, islice

import aiohttp
import msgspec

from shared.errors import SpotinferenceError
from shared.messages.bench import Load
from spotinference.bench.streamed_request import Shot, Target, fire

SILENCE_SECONDS = 120.0
"""Between two pieces of an answer of a warm engine."""
WARM_SHOTS = 2
"""Of each side, before anything counts: connections, compiled kernels, the template."""
_TEXT = (
    "the river runs past an old mill where people meet to trade bread and stories while the water turns its wheel and "
    "children count boats that carry wood and stone down to the city on a slow warm day in early summer"
)
BEGINNING_TOKENS = 8
_number = count()


class BenchFailed(SpotinferenceError):
    """Nothing was measured: why, and what to do."""


@dataclass
class Measured:
    """What came of it. `cpu`: seconds of the client's own work in the rounds of each side."""

    gateway: list[list[Shot]] = field(default_factory=list)
    direct: list[list[Shot]] = field(default_factory=list)
    gateway_cpu: float = 0.0
    direct_cpu: float = 0.0
    pairs: list[tuple[Shot, Shot]] = field(default_factory=list)


def prompt_of(tokens: int) -> str:
    """About so many tokens, and another beginning each time: no prompt is in the engine's cache."""
    text = islice(cycle(_TEXT.split()), max(0, tokens - BEGINNING_TOKENS))
    return " ".join([f"{next(_number)}-{time.time_ns() % 10**9}", *text])


async def warmed(session: aiohttp.ClientSession, target: Target, load: Load, wait: float) -> Load:
    """The load as this target takes it. The first request may wait for a wake; it is tried without `ignore_eos` too."""
    patient = aiohttp.ClientTimeout(total=wait)
    async with aiohttp.ClientSession(timeout=patient, trust_env=False) as waiting:
        prompt, fitting = prompt_of(load.prompt_tokens), load
        shot = await fire(waiting, target, prompt, load.tokens, ignore_eos=load.ignore_eos)
        if shot.status == 400 and load.ignore_eos:
            fitting = msgspec.structs.replace(load, ignore_eos=False)
            shot = await fire(waiting, target, prompt, load.tokens, ignore_eos=False)
    if shot.fault is not None:
        what = f"{shot.status} {shot.fault}" if shot.status not in (0, 200) else shot.fault
        raise BenchFailed(f"{target.origin} does not answer for {target.model!r}: {what}")
    await asyncio.gather(*(_one(session, target, fitting, load.tokens) for _ in range(WARM_SHOTS)))
    return fitting


async def measure(
    session: aiohttp.ClientSession,
    gateway: Target,
    direct: Target,
    load: Load,
    found: Measured,
    *,
    on_shot: Callable[[], None],
) -> None:
    """Fill `found` as requests end, so that it holds what was measured when this is cancelled.

    `on_shot` is called after each request.
    """
    for number in range(load.rounds):
        share = load.requests // load.rounds + (number < load.requests % load.rounds)
        for through_gateway in (number % 2 == 0, number % 2 != 0):
            target, rounds = (gateway, found.gateway) if through_gateway else (direct, found.direct)
            rounds.append([])
            begun = time.process_time()
            try:
                await _round(session, target, load, share, shots=rounds[-1], on_shot=on_shot)
            finally:
                spent = time.process_time() - begun
                if through_gateway:
                    found.gateway_cpu += spent
                else:
                    found.direct_cpu += spent
    for number in range(load.pairs):
        targets = (gateway, direct) if number % 2 == 0 else (direct, gateway)
        shots = []
        for target in targets:
            shots.append(await _one(session, target, load, 1))
            on_shot()
        found.pairs.append((shots[number % 2], shots[1 - number % 2]))


async def _round(
    session: aiohttp.ClientSession,
    target: Target,
    load: Load,
    requests: int,
    *,
    shots: list[Shot],
    on_shot: Callable[[], None],
) -> None:
    """So many at once as the load says; the next begins when one ends."""
    left = iter(range(requests))

    async def stream() -> None:
        for _ in left:
            shots.append(await _one(session, target, load, load.tokens))
            on_shot()

    await asyncio.gather(*(stream() for _ in range(min(load.concurrency, requests))))


async def _one(session: aiohttp.ClientSession, target: Target, load: Load, tokens: int) -> Shot:
    return await fire(session, target, prompt_of(load.prompt_tokens), tokens, ignore_eos=load.ignore_eos)


def session_for(load: Load) -> aiohttp.ClientSession:
    """Kept connections, as many as there are streams on both sides; no proxy of the environment."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=SILENCE_SECONDS)
    connector = aiohttp.TCPConnector(limit=2 * load.concurrency + 2, keepalive_timeout=4.0)
    return aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False)
