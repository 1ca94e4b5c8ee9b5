"""`spotinference check` of accounts at clouds: may we start and stop, do the clocks agree, are the machines known?"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from services.waker.core.events import Observation
from services.waker.ports import AccountSnapshot, Provider, ProviderUnavailable
from services.waker.wiring import build_providers
from shared.config.fleet import Machine
from shared.config.providers import ProviderName
from shared.config.sections import Config
from shared.errors import Misconfigured
from spotinference.diagnostics import Diagnostic, note, ok, wrong

CALL_SECONDS = 60.0
"""For a self-test or a look: several calls, each bounded by its provider."""


async def check_accounts(config: Config, data_dir: Path) -> tuple[list[Diagnostic], dict[str, Observation]]:
    """What is to say of each account, and what is seen of the machines. One account's faults hide no other's."""
    names = sorted({tier.provider for tier in config.tier if tier.traits.account_hint is not None})
    told = await asyncio.gather(*(_account(_part(config, name), name, data_dir) for name in names))
    diagnostics = [diagnostic for found, _ in told for diagnostic in found]
    return diagnostics, {
        machine: observation for _, observations in told for machine, observation in observations.items()
    }


def _part(config: Config, name: ProviderName) -> Config:
    """The configuration as if there were this provider alone."""
    tiers = tuple(tier for tier in config.tier if tier.provider == name)
    kept = {tier.name for tier in tiers}
    machines = tuple(machine for machine in config.machine if machine.tier in kept)
    return msgspec.structs.replace(config, tier=tiers, machine=machines, model=())


async def _account(
    part: Config, name: ProviderName, data_dir: Path
) -> tuple[list[Diagnostic], Mapping[str, Observation]]:
    try:
        provider = build_providers(part, data_dir)[name]
    except Misconfigured as error:
        return [wrong(f"provider {name}: {error}")], {}
    except ImportError as error:
        fix = "install the waker's dependencies, `pip install spotinference[waker]`"
        return [wrong(f"provider {name}: {error.name or error} is not installed here: {fix}")], {}
    try:
        faults = await _tested(provider)
        seen, observations = await _seen(provider, part.machine, name, faults)
    finally:
        await provider.close()
    tested = [wrong(_by(name, fault)) for fault in faults]
    return (tested or [ok(f"provider {name}: its self-test found nothing wrong")]) + seen, observations


def _by(name: str, text: str) -> str:
    """Providers begin their faults with their own name."""
    own, colon, rest = text.partition(": ")
    return f"provider {name}: {rest if colon and own.lower() == name else text}"


async def _tested(provider: Provider) -> Sequence[str]:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await provider.test()
    except TimeoutError:
        return [f"its self-test took longer than {CALL_SECONDS:g} s: can it be reached from here?"]


async def _seen(
    provider: Provider, machines: Sequence[Machine], name: str, told: Sequence[str]
) -> tuple[list[Diagnostic], Mapping[str, Observation]]:
    """`told` is what the self-test said: it is not said twice."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            snapshot = await provider.observe()
    except (ProviderUnavailable, TimeoutError) as error:
        why = str(error) or f"no answer within {CALL_SECONDS:g} s"
        if any(fault in why for fault in told):
            return [], {}
        return [wrong(_by(name, f"its machines cannot be seen: {why}"))], {}
    diagnostics = [f for m in machines if (f := _machine(m, snapshot.observations.get(m.id), name, told)) is not None]
    return diagnostics + _orphans(snapshot, name), snapshot.observations


def _machine(machine: Machine, observation: Observation | None, name: str, told: Sequence[str]) -> Diagnostic | None:
    who = f"machine {machine.id}: {machine.instance}"
    if observation is None:
        return wrong(f"{who} was not told by {name}: may these credentials see it? Ask again")
    reason = f": {observation.reason}" if observation.reason else ""
    if observation.power == "not_found":
        if any(machine.instance and machine.instance in text for text in told):
            return None
        return wrong(f"{who} is not known to {name}{reason}: correct `instance`, or leave the machine out")
    state = f"{who} is {observation.provider_state} at {name}"
    if observation.power == "error":
        return wrong(f"{state}, which is broken{reason}: mend it at the provider, or leave the machine out")
    if observation.locked:
        return wrong(f"{state}, and cannot be started by us: {observation.locked}")
    return _known(state, observation)


def _known(state: str, observation: Observation) -> Diagnostic:
    if observation.power == "stopped_billed":
        return note(f"{state}: off, and billed as if it ran; the waker starts it and puts it to sleep")
    if observation.leaving:
        return note(f"{state}, and is about to be taken away: {observation.leaving}")
    return ok(state)


def _orphans(snapshot: AccountSnapshot, name: str) -> list[Diagnostic]:
    fix = "the waker puts it to sleep; add a [[machine]], or take the mark off"
    return [
        note(f"provider {name}: {o.id} ({o.observation.provider_state}) has our mark and is not configured: {fix}")
        for o in snapshot.orphans
    ]
