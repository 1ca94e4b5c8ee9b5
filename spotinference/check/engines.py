"""Checks of the engines: whether each answers at its endpoint and serves its models."""

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
CONCURRENCY = 16
"""Machines that are checked at the same time."""


async def check_engines(
    config: Config, observations: Mapping[str, Observation], records: Mapping[str, MachineRecord]
) -> list[Diagnostic]:
    """Check the engine of each machine. A machine that sleeps is reported as such, and its engine is not called."""
    slots = asyncio.Semaphore(CONCURRENCY)
    try:
        prober = HttpProber(EngineKeys(config).find)
    except Misconfigured as error:
        return [wrong(str(error))]

    async def check(machine: Machine) -> list[Diagnostic]:
        async with slots:
            observation, record = observations.get(machine.id), records.get(machine.id)
            return await EngineCheck(config, machine, observation=observation, record=record, prober=prober).run()

    try:
        results = await asyncio.gather(*(check(machine) for machine in config.machine))
    finally:
        await prober.close()
    return [diagnostic for diagnostics in results for diagnostic in diagnostics]


class EngineCheck:
    """The check of one machine's engine."""

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
        self._observation = observation
        self._record = record
        self._models = [m.served_as or m.name for m in config.model if machine.tier in m.lineup]
        self._prober = prober
        self._work_timeout = config.waker.call_timeout

    async def run(self) -> list[Diagnostic]:
        if (reason := self._reason_to_skip()) is not None:
            return [ok(f"{self._who}: engine not checked: {reason}")]
        endpoint = self._endpoint()
        if endpoint is None:
            return [note(f"{self._who}: engine not checked: its endpoint is not known yet")]
        answers = [
            await self._prober.reach(self._machine, endpoint, model, PROBE_SECONDS, must_list=True)
            for model in self._models or [""]
        ]
        faults = list(dict.fromkeys(answer.mismatch for answer in answers if answer.mismatch))
        if faults:
            return [wrong(f"{self._who}: endpoint {endpoint}: {fault}") for fault in faults]
        silent = next((answer for answer in answers if not answer.answered), None)
        if silent is not None:
            return [self._no_answer(endpoint, silent.code)]
        return [await self._check_work(endpoint)]

    def _reason_to_skip(self) -> str | None:
        """Return why there is no engine to check; None if there should be one."""
        if self._record is not None and self._record.state == "waking":
            return "it is being woken"
        if not self._traits.can_sleep:
            return None
        if self._traits.is_local:
            running = self._record is not None and self._record.endpoint is not None
            return None if running else "it is not running"
        if self._observation is None or self._observation.power == "running":
            return None
        return f"{self._provider} reports that the machine is {self._observation.provider_state}"

    def _endpoint(self) -> str | None:
        seen = self._observation.endpoint if self._observation else None
        on_record = self._record.endpoint if self._record else None
        return seen or self._configured or on_record

    def _no_answer(self, endpoint: str, code: str) -> Diagnostic:
        """Report an engine that should answer and does not."""
        text = f"{self._who}: endpoint {endpoint}: {code or 'no answer'}"
        if self._traits.account_hint is None:
            return wrong(f"{text}: start its engine, or correct `endpoint`")
        if self._observation is None:
            return note(f"{text}; {self._provider} did not report whether the machine sleeps")
        state = f"though {self._provider} reports that the machine is {self._observation.provider_state}"
        fix = "is the engine running (it may still be loading), is `endpoint` right, can this host connect to it?"
        return wrong(f"{text}, {state}: {fix}")

    async def _check_work(self, endpoint: str) -> Diagnostic:
        """Have the engine do a little work for its model, as the waker does."""
        text = f"{self._who}: endpoint {endpoint}"
        if not self._models:
            return note(f"{text}: something answers, but no configured model is served there")
        if self._record is not None and self._record.state in ("ready", "draining"):
            return ok(f"{text}: an engine answers for {', '.join(self._models)}; the waker considers it ready")
        answer = await self._prober.work(self._machine, endpoint, self._models[0], self._work_timeout)
        if answer.mismatch:
            return wrong(f"{text}: {answer.mismatch}")
        if not answer.answered:
            return wrong(f"{text}: it answers, but does not do what {self._models[0]} is for: {answer.code}")
        return ok(f"{text}: an engine answers for {', '.join(self._models)}")
