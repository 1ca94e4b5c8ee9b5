"""Checks of cloud accounts: the permissions, the clock, and whether the provider knows the machines."""

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
"""For a self-test or an observation: several calls, each with a timeout of its own."""


async def check_accounts(config: Config, data_dir: Path) -> tuple[list[Diagnostic], dict[str, Observation]]:
    """Check every account. Return the diagnostics, and what the providers report about the machines, by id.

    A problem with one account hides no problem with another.
    """
    names = sorted({tier.provider for tier in config.tier if tier.traits.account_hint is not None})
    results = await asyncio.gather(*(_check_account(_only(config, name), name, data_dir) for name in names))
    diagnostics = [diagnostic for of_account, _ in results for diagnostic in of_account]
    return diagnostics, {
        machine: observation for _, observations in results for machine, observation in observations.items()
    }


def _only(config: Config, name: ProviderName) -> Config:
    """Return the configuration of this provider alone."""
    tiers = tuple(tier for tier in config.tier if tier.provider == name)
    names = {tier.name for tier in tiers}
    machines = tuple(machine for machine in config.machine if machine.tier in names)
    return msgspec.structs.replace(config, tier=tiers, machine=machines, model=())


async def _check_account(
    config: Config, name: ProviderName, data_dir: Path
) -> tuple[list[Diagnostic], Mapping[str, Observation]]:
    try:
        provider = build_providers(config, data_dir)[name]
    except Misconfigured as error:
        return [wrong(f"provider {name}: {error}")], {}
    except ImportError as error:
        fix = "install the waker's dependencies with `pip install spotinference[waker]`"
        return [wrong(f"provider {name}: {error.name or error} is not installed on this host: {fix}")], {}
    try:
        faults = await _self_test(provider)
        of_machines, observations = await _check_machines(provider, config.machine, name, faults)
    finally:
        await provider.close()
    of_account = [wrong(_prefixed(name, fault)) for fault in faults]
    return (of_account or [ok(f"provider {name}: the self-test passed")]) + of_machines, observations


def _prefixed(name: str, text: str) -> str:
    """Begin a fault with `provider NAME`, once: providers begin theirs with their own name."""
    own, colon, rest = text.partition(": ")
    return f"provider {name}: {rest if colon and own.lower() == name else text}"


async def _self_test(provider: Provider) -> Sequence[str]:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await provider.test()
    except TimeoutError:
        return [f"the self-test took longer than {CALL_SECONDS:g} s: can this host reach the provider?"]


async def _check_machines(
    provider: Provider, machines: Sequence[Machine], name: str, faults: Sequence[str]
) -> tuple[list[Diagnostic], Mapping[str, Observation]]:
    """`faults` are those of the self-test; they are not reported twice."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            snapshot = await provider.observe()
    except (ProviderUnavailable, TimeoutError) as error:
        why = str(error) or f"no answer within {CALL_SECONDS:g} s"
        if any(fault in why for fault in faults):
            return [], {}
        return [wrong(_prefixed(name, f"cannot list the machines: {why}"))], {}
    diagnostics = [
        d for m in machines if (d := _check_machine(m, snapshot.observations.get(m.id), name, faults)) is not None
    ]
    return diagnostics + _orphans(snapshot, name), snapshot.observations


def _check_machine(
    machine: Machine, observation: Observation | None, name: str, faults: Sequence[str]
) -> Diagnostic | None:
    who = f"machine {machine.id}: {machine.instance}"
    if observation is None:
        return wrong(f"{who} was not listed by {name}: may these credentials see it? Run the check again")
    reason = f": {observation.reason}" if observation.reason else ""
    if observation.power == "not_found":
        if any(machine.instance and machine.instance in text for text in faults):
            return None
        return wrong(f"{who} is not known to {name}{reason}: correct `instance`, or remove the machine")
    state = f"{who} is {observation.provider_state} at {name}"
    if observation.power == "error":
        return wrong(f"{state}, which is an error state{reason}: repair it at the provider, or remove the machine")
    if observation.locked:
        return wrong(f"{state}, and the waker cannot start it: {observation.locked}")
    return _describe(state, observation)


def _describe(state: str, observation: Observation) -> Diagnostic:
    if observation.power == "stopped_billed":
        return note(f"{state}: stopped, but billed as if it ran; the waker will start it and put it to sleep")
    if observation.leaving:
        return note(f"{state}, and the provider will take it away: {observation.leaving}")
    return ok(state)


def _orphans(snapshot: AccountSnapshot, name: str) -> list[Diagnostic]:
    fix = "the waker will put it to sleep; add a [[machine]], or remove the tag"
    return [
        note(
            f"provider {name}: {o.id} ({o.observation.provider_state}) has the fleet's tag but is not configured: {fix}"
        )
        for o in snapshot.orphans
    ]
