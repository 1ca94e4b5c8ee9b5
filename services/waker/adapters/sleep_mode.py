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

from services.waker.adapters.process import OBSERVE_SECONDS, LocalMachine
from services.waker.core.events import Observation, PowerState
from services.waker.ports import ACCEPTED, CallResult, ProviderUnavailable
from shared.http_body import read_limited
from shared.messages.codec import Unreadable, decode
from shared.tasks import cancel_and_wait

Change = Callable[[str], Awaitable[None]]
"""Of the engine at an endpoint."""

ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1"}
ASK_SECONDS = 1.0
SLEEP_SECONDS = 20.0
"""As long as until the core asks again, which ends the engine."""
WAKE_SECONDS = 600.0
"""Level 2 reads the weights from disk. The core's own limits are shorter as a rule."""
ANSWER_SECONDS = 10.0
"""A start that takes longer is answered before it is done; looks say when it is."""
ENDING_SECONDS = 5.0
"""A keeper that is told to end its engine says so at once."""
MAX_BODY_BYTES = 4096
SHOWN_CHARACTERS = 200


class NotDone(Exception):
    """The engine did not do what it was asked, in words. `awake`: that shows that it does not sleep."""

    def __init__(self, words: str, *, awake: bool = False) -> None:
        super().__init__(words)
        self.awake = awake


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
        """A falling asleep or a wake under way, which goes on when the call that began it is over."""
        self._power: PowerState = "running"
        """Meanwhile."""
        self._fault = ""
        """Why the last change ended the engine."""

    async def observe(self) -> Observation:
        observation = self._sight()
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
        """What is under way at the engine goes on there; the next waker looks."""
        if self._change is not None:
            await cancel_and_wait([self._change])

    async def _start(self, generation: int) -> CallResult:
        if self._changing and self._power == "starting":
            return ACCEPTED
        if self._change is not None:
            await asyncio.wait([self._change])
        observation = self._sight()
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
        await self.close()  # a wake that is not wanted any more
        observation = self._sight()
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
        except NotDone as error:
            self._power, self._fault = "stopping", f"the engine was ended, for it did not do as it was told: {error}"
            await super()._stop(force=False)
            for _ in range(round(ENDING_SECONDS / OBSERVE_SECONDS)):
                if self._sight().power != "running":
                    return
                await asyncio.sleep(OBSERVE_SECONDS)

    async def _sleep(self, endpoint: str) -> None:
        if not await _is_sleeping(endpoint):
            await _ask("POST", f"{endpoint}/sleep?level={self._level}", SLEEP_SECONDS)

    async def _wake(self, endpoint: str) -> None:
        """At level 2 the weights' memory comes first, then the weights, then that of the cache."""
        if self._level == 1:
            await _ask("POST", f"{endpoint}/wake_up", WAKE_SECONDS)
            return
        await _ask("POST", f"{endpoint}/wake_up?tags=weights", WAKE_SECONDS)
        await _ask("POST", f"{endpoint}/collective_rpc", WAKE_SECONDS, {"method": "reload_weights"})
        await _ask("POST", f"{endpoint}/wake_up?tags=kv_cache", WAKE_SECONDS)


class _Sleeping(msgspec.Struct):
    """What `/is_sleeping` answers."""

    is_sleeping: bool | None = None


async def _is_sleeping(endpoint: str) -> bool | None:
    """None: it does not say. What does not listen yet is awake, and so is what knows no sleep."""
    try:
        told = decode(await _ask("GET", f"{endpoint}/is_sleeping", ASK_SECONDS), _Sleeping)
    except NotDone as error:
        return False if error.awake else None
    except Unreadable:
        return None
    return told.is_sleeping


async def _ask(method: str, url: str, seconds: float, body: object = None) -> bytes:
    """The beginning of a good answer; `NotDone` for any other, and none in time."""
    limit = aiohttp.ClientTimeout(total=seconds)
    what = f"{method} {url}"
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, trust_env=False) as session,
            session.request(method, url, json=body, allow_redirects=False) as answer,
        ):
            told = await read_limited(answer, MAX_BODY_BYTES)
    except TimeoutError as error:
        raise NotDone(f"{what}: no answer within {seconds:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise NotDone(f"{what}: {error}", awake=isinstance(error, aiohttp.ClientConnectorError)) from error
    if answer.status != 200:
        words = " ".join(told.decode("utf-8", "replace").split())[:SHOWN_CHARACTERS]
        raise NotDone(f"{what}: {answer.status} {words}", awake=answer.status == HTTPStatus.NOT_FOUND)
    return told
