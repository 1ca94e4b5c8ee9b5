"""Machines that are local commands with vLLM's sleep mode: asleep, the engine runs on and gives its GPUs' memory back.

That needs `--enable-sleep-mode` in the command, and `VLLM_SERVER_DEV_MODE=1`, which it gets here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec

from services.waker.adapters.process import OBSERVE_EVERY_S, LocalMachine
from services.waker.core.events import Observation, PowerState
from services.waker.ports import ACCEPTED, CallResult, ProviderUnavailable
from shared.http_body import read_limited
from shared.messages.codec import Unreadable, decode
from shared.tasks import cancel_and_wait

Change = Callable[[str], Awaitable[None]]
"""Changes the state of the engine at an endpoint."""

ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1"}
ASK_SECONDS = 1.0
SLEEP_SECONDS = 20.0
"""The time until the core calls stop again, which ends the engine."""
WAKE_SECONDS = 600.0
"""Level 2 reads the weights from disk. The core's own limits are usually shorter."""
ANSWER_SECONDS = 10.0
"""A start that takes longer returns before it is done; observations show when it is."""
ENDING_SECONDS = 5.0
"""A keeper that is told to end its engine writes that at once."""
MAX_BODY_BYTES = 4096
SHOWN_CHARACTERS = 200


class ChangeFailed(Exception):
    """The engine did not change its state as requested. `is_awake`: the failure shows that it does not sleep."""

    def __init__(self, words: str, *, is_awake: bool = False) -> None:
        super().__init__(words)
        self.is_awake = is_awake


class SleepingMachine(LocalMachine):
    """Its engine is put to sleep and woken; one that does neither is ended, and the next start is cold.

    What is remembered is the keeper's process; whether that sleeps is asked of the engine at each look. A generation is
    one engine process, however often it sleeps: a wake keeps the number, and says so.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        lifeline: int | None,
        *,
        level: Literal[1, 2],
        grace: float = 10.0,
        passed: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, command, lifeline, grace=grace, environment=ENVIRONMENT, passed=passed)
        self._level = level
        self._change: asyncio.Task[None] | None = None
        """A change under way, which continues after the call that began it."""
        self._power: PowerState = "running"
        """The power state meanwhile."""
        self._fault = ""
        """Why the last change ended the engine."""

    async def observe(self) -> Observation:
        observation = self._observe()
        if observation.power == "stopped" and self._fault:
            return replace(observation, reason=self._fault)
        if observation.power != "running" or observation.endpoint is None:
            return observation
        if self._changing:
            words = "waking up" if self._power == "starting" else "falling asleep"
            return replace(observation, power=self._power, provider_state=words)
        asleep = await _is_sleeping(observation.endpoint)
        if asleep is None:
            raise ProviderUnavailable(f"the engine does not say within {ASK_SECONDS:g} s whether it sleeps")
        return (
            replace(observation, power="stopped", provider_state=f"sleeping level {self._level}")
            if asleep
            else observation
        )

    async def close(self) -> None:
        """Stop waiting. What is under way at the engine continues there; the next waker observes it."""
        if self._change is not None:
            await cancel_and_wait([self._change])

    async def _start(self, generation: int) -> CallResult:
        if self._changing and self._power == "starting":
            return ACCEPTED
        if self._change is not None:
            await asyncio.wait([self._change])
        observation = self._observe()
        if (
            observation.power != "running"
            or observation.endpoint is None
            or not await _is_sleeping(observation.endpoint)
        ):
            self._fault = ""
            return await super()._start(generation)
        change = self._begin("starting", self._wake, observation.endpoint)
        await asyncio.wait([change], timeout=ANSWER_SECONDS)
        if self._fault:
            return CallResult(outcome="unknown", code="wake_up", reason=self._fault)
        if not change.done():
            return ACCEPTED
        return CallResult(outcome="accepted", endpoint=observation.endpoint, generation=observation.generation)

    async def _stop(self, *, force: bool) -> CallResult:
        if self._changing and self._power == "stopping" and not force:
            return ACCEPTED
        await self.close()  # abandon a wake under way
        observation = self._observe()
        if force or observation.power != "running" or observation.endpoint is None:
            return await super()._stop(force=force)
        self._begin("stopping", self._sleep, observation.endpoint)
        return ACCEPTED

    @property
    def _changing(self) -> bool:
        return self._change is not None and not self._change.done()

    def _begin(self, power: PowerState, change: Change, endpoint: str) -> asyncio.Task[None]:
        self._power, self._fault = power, ""
        self._change = asyncio.create_task(self._changed(change, endpoint))
        return self._change

    async def _changed(self, change: Change, endpoint: str) -> None:
        try:
            await change(endpoint)
        except ChangeFailed as error:
            self._power, self._fault = "stopping", f"the engine was ended because it did not obey: {error}"
            await super()._stop(force=False)
            for _ in range(round(ENDING_SECONDS / OBSERVE_EVERY_S)):
                if self._observe().power != "running":
                    return
                await asyncio.sleep(OBSERVE_EVERY_S)

    async def _sleep(self, endpoint: str) -> None:
        if not await _is_sleeping(endpoint):
            await _request("POST", f"{endpoint}/sleep?level={self._level}", SLEEP_SECONDS)

    async def _wake(self, endpoint: str) -> None:
        """Wake the engine: at level 2 first the memory of the weights, then the weights, then the cache's memory."""
        if self._level == 1:
            await _request("POST", f"{endpoint}/wake_up", WAKE_SECONDS)
            return
        await _request("POST", f"{endpoint}/wake_up?tags=weights", WAKE_SECONDS)
        await _request("POST", f"{endpoint}/collective_rpc", WAKE_SECONDS, {"method": "reload_weights"})
        await _request("POST", f"{endpoint}/wake_up?tags=kv_cache", WAKE_SECONDS)


class _Sleeping(msgspec.Struct):
    """What `/is_sleeping` answers."""

    is_sleeping: bool | None = None


async def _is_sleeping(endpoint: str) -> bool | None:
    """Whether the engine sleeps; None if unknown. An engine that does not listen yet or has no sleep mode is awake."""
    try:
        status = decode(await _request("GET", f"{endpoint}/is_sleeping", ASK_SECONDS), _Sleeping)
    except ChangeFailed as error:
        return False if error.is_awake else None
    except Unreadable:
        return None
    return status.is_sleeping


async def _request(method: str, url: str, seconds: float, body: object = None) -> bytes:
    """Send a request and return the beginning of a successful response.

    Raises:
        ChangeFailed: there was no response in time, or it was an error.
    """
    limit = aiohttp.ClientTimeout(total=seconds)
    what = f"{method} {url}"
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, trust_env=False) as session,
            session.request(method, url, json=body, allow_redirects=False) as answer,
        ):
            content = await read_limited(answer, MAX_BODY_BYTES)
    except TimeoutError as error:
        raise ChangeFailed(f"{what}: no answer within {seconds:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ChangeFailed(f"{what}: {error}", is_awake=isinstance(error, aiohttp.ClientConnectorError)) from error
    if answer.status != 200:
        words = " ".join(content.decode("utf-8", "replace").split())[:SHOWN_CHARACTERS]
        raise ChangeFailed(f"{what}: {answer.status} {words}", is_awake=answer.status == HTTPStatus.NOT_FOUND)
    return content
