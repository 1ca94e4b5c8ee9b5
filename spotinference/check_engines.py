"""`spotinference check` of the engines: does one answer where it should, and does it serve what it should?"""

import asyncio
from collections.abc import Mapping

import aiohttp
import msgspec

from services.waker.adapters.probe import HttpProber
from services.waker.core.events import Sight
from shared.config import Config, Machine
from shared.messages.codec import Unreadable, decode
from shared.messages.waker import MachineRecord
from spotinference.findings import Finding, note, ok, wrong

PROBE_SECONDS = 3.0
AT_ONCE = 16
"""Machines that are asked at the same time."""
MAX_BODY_BYTES = 1024 * 1024


class Listing(msgspec.Struct, frozen=True):
    """What an engine answers to `GET /v1/models`, as far as it has to."""

    data: list[object]


async def check_engines(
    config: Config, sights: Mapping[str, Sight], records: Mapping[str, MachineRecord]
) -> list[Finding]:
    """Each machine's engine, by its own findings. What sleeps is not asked, and that is said."""
    turns = asyncio.Semaphore(AT_ONCE)
    timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
    prober = HttpProber()
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:

            async def checked(machine: Machine) -> list[Finding]:
                async with turns:
                    return await Engine(
                        config,
                        machine,
                        sight=sights.get(machine.id),
                        record=records.get(machine.id),
                        prober=prober,
                        session=session,
                    ).findings()

            found = await asyncio.gather(*(checked(machine) for machine in config.machine))
    finally:
        await prober.close()
    return [finding for findings in found for finding in findings]


class Engine:
    """One machine's, as it is now."""

    def __init__(
        self,
        config: Config,
        machine: Machine,
        *,
        sight: Sight | None,
        record: MachineRecord | None,
        prober: HttpProber,
        session: aiohttp.ClientSession,
    ) -> None:
        self._provider = config.tiers[machine.tier].provider
        self._who = f"machine {machine.id}"
        self._configured = machine.endpoint
        self._sight = sight
        self._record = record
        self._models = [m.served_as or m.name for m in config.model if machine.tier in m.lineup]
        self._prober = prober
        self._session = session

    async def findings(self) -> list[Finding]:
        asleep = self._not_asked()
        if asleep:
            return [ok(f"{self._who}: its engine was not asked: {asleep}")]
        endpoint = self._endpoint()
        if endpoint is None:
            return [note(f"{self._who}: its engine was not asked: nobody knows its endpoint yet")]
        answers = [await self._prober.reach(endpoint, model, PROBE_SECONDS) for model in self._models or [""]]
        strange = list(dict.fromkeys(answer.wrong for answer in answers if answer.wrong))
        if strange:
            return [wrong(f"{self._who}: endpoint {endpoint}: {fault}") for fault in strange]
        silent = next((answer for answer in answers if not answer.answered), None)
        if silent is not None:
            return [self._silent(endpoint, silent.code)]
        return [await self._listed(endpoint)]

    def _not_asked(self) -> str:
        """Why there is no engine to ask; empty: there should be one."""
        if self._record is not None and self._record.state == "waking":
            return "it is being woken"
        if self._provider == "static":
            return ""
        if self._provider == "process":
            running = self._record is not None and self._record.endpoint is not None
            return "" if running else "it does not run"
        if self._sight is None or self._sight.power == "up":
            return ""
        return f"{self._provider} says that the machine is {self._sight.provider_state}"

    def _endpoint(self) -> str | None:
        seen = self._sight.endpoint if self._sight else None
        on_record = self._record.endpoint if self._record else None
        return seen or self._configured or on_record

    def _silent(self, endpoint: str, code: str) -> Finding:
        """It should answer, and does not."""
        told = f"{self._who}: endpoint {endpoint}: {code or 'no answer'}"
        if self._provider in ("static", "process"):
            return wrong(f"{told}: start its engine there, or correct `endpoint`")
        if self._sight is None:
            return note(f"{told}; {self._provider} did not say whether it sleeps")
        up = f"though {self._provider} says that the machine is {self._sight.provider_state}"
        fix = "does its engine run (it may still be loading), is `endpoint` right, may this host connect to it?"
        return wrong(f"{told}, {up}: {fix}")

    async def _listed(self, endpoint: str) -> Finding:
        """Something answers and does not say that it serves another model: is it an engine at all?"""
        told = f"{self._who}: endpoint {endpoint}"
        try:
            async with self._session.get(f"{endpoint}/v1/models", allow_redirects=False) as answer:
                status, body = answer.status, await answer.content.read(MAX_BODY_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return self._silent(endpoint, str(error))
        if status in (401, 403):
            return wrong(f"{told}: answers {status}: the gateway has no key for an engine: start it without one")
        if status != 200:
            return note(f"{told}: answers, and lists no models ({status}): which one it serves is not known")
        try:
            listed = decode(body, Listing)
        except Unreadable:
            return wrong(f"{told}: answers /v1/models with no list of models: no engine listens there")
        if not listed.data:
            return note(f"{told}: an engine answers, and lists no models: which one it serves is not known")
        return ok(f"{told}: an engine answers for {', '.join(self._models) or 'no model of ours'}")
