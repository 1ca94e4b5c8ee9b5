"""`spotinference check` of the engines: does one answer where it should, and does it serve what it should?"""

import asyncio
from collections.abc import Mapping

from services.waker.adapters.probe import HttpProber
from services.waker.core.events import Observation
from shared.config.fleet import Machine
from shared.config.providers import traits_of
from shared.config.sections import Config
from shared.engine_keys import EngineKeys
from shared.errors import Misconfigured
from shared.messages.waker import MachineRecord
from spotinference.diagnostics import Diagnostic, note, ok, wrong

PROBE_SECONDS = 3.0
AT_ONCE = 16
"""Machines that are asked at the same time."""


async def check_engines(
    config: Config, observations: Mapping[str, Observation], records: Mapping[str, MachineRecord]
) -> list[Diagnostic]:
    """Each machine's engine, by its own findings. What sleeps is not asked, and that is said."""
    turns = asyncio.Semaphore(AT_ONCE)
    try:
        prober = HttpProber(EngineKeys(config).find)
    except Misconfigured as error:
        return [wrong(str(error))]

    async def checked(machine: Machine) -> list[Diagnostic]:
        async with turns:
            observation, record = observations.get(machine.id), records.get(machine.id)
            return await Engine(config, machine, observation=observation, record=record, prober=prober).diagnostics()

    try:
        found = await asyncio.gather(*(checked(machine) for machine in config.machine))
    finally:
        await prober.close()
    return [diagnostic for diagnostics in found for diagnostic in diagnostics]


class Engine:
    """One machine's, as it is now."""

    def __init__(
        self,
        config: Config,
        machine: Machine,
        *,
        observation: Observation | None,
        record: MachineRecord | None,
        prober: HttpProber,
    ) -> None:
        self._machine = machine.id
        self._provider = config.tiers[machine.tier].provider
        self._traits = traits_of(self._provider)
        self._who = f"machine {machine.id}"
        self._configured = machine.endpoint
        self._sight = observation
        self._record = record
        self._models = [m.served_as or m.name for m in config.model if machine.tier in m.lineup]
        self._prober = prober
        self._work_timeout = config.waker.call_timeout

    async def diagnostics(self) -> list[Diagnostic]:
        asleep = self._not_asked()
        if asleep:
            return [ok(f"{self._who}: its engine was not asked: {asleep}")]
        endpoint = self._endpoint()
        if endpoint is None:
            return [note(f"{self._who}: its engine was not asked: nobody knows its endpoint yet")]
        answers = [
            await self._prober.reach(self._machine, endpoint, model, PROBE_SECONDS, must_list=True)
            for model in self._models or [""]
        ]
        strange = list(dict.fromkeys(answer.wrong for answer in answers if answer.wrong))
        if strange:
            return [wrong(f"{self._who}: endpoint {endpoint}: {fault}") for fault in strange]
        silent = next((answer for answer in answers if not answer.answered), None)
        if silent is not None:
            return [self._silent(endpoint, silent.code)]
        return [await self._works(endpoint)]

    def _not_asked(self) -> str:
        """Why there is no engine to ask; empty: there should be one."""
        if self._record is not None and self._record.state == "waking":
            return "it is being woken"
        if not self._traits.can_sleep:
            return ""
        if self._traits.is_local:
            running = self._record is not None and self._record.endpoint is not None
            return "" if running else "it does not run"
        if self._sight is None or self._sight.power == "running":
            return ""
        return f"{self._provider} says that the machine is {self._sight.provider_state}"

    def _endpoint(self) -> str | None:
        seen = self._sight.endpoint if self._sight else None
        on_record = self._record.endpoint if self._record else None
        return seen or self._configured or on_record

    def _silent(self, endpoint: str, code: str) -> Diagnostic:
        """It should answer, and does not."""
        told = f"{self._who}: endpoint {endpoint}: {code or 'no answer'}"
        if self._traits.account_hint is None:
            return wrong(f"{told}: start its engine there, or correct `endpoint`")
        if self._sight is None:
            return note(f"{told}; {self._provider} did not say whether it sleeps")
        up = f"though {self._provider} says that the machine is {self._sight.provider_state}"
        fix = "does its engine run (it may still be loading), is `endpoint` right, may this host connect to it?"
        return wrong(f"{told}, {up}: {fix}")

    async def _works(self, endpoint: str) -> Diagnostic:
        """Whether it does what its model is for, asked as the waker asks."""
        text = f"{self._who}: endpoint {endpoint}"
        if not self._models:
            return note(f"{text}: something answers; no model of ours is served there")
        if self._record is not None and self._record.state in ("ready", "draining"):
            return ok(f"{text}: an engine answers for {', '.join(self._models)}; the waker holds it ready")
        answer = await self._prober.work(self._machine, endpoint, self._models[0], self._work_timeout)
        if answer.wrong:
            return wrong(f"{text}: {answer.wrong}")
        if not answer.answered:
            return wrong(f"{text}: it answers, and does not do what {self._models[0]} is for: {answer.code}")
        return ok(f"{text}: an engine answers for {', '.join(self._models)}")
