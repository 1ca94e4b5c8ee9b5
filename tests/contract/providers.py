"""What every provider promises. Its tests inherit `ProviderContract`, a cloud's `CloudContract`, and give a `rig`.

class TestMine(CloudContract):
    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]: ...
"""

import asyncio
from typing import Literal, Protocol

import pytest

from services.waker.core.events import Observation, PowerState
from services.waker.ports import CallResult, Provider, ProviderUnavailable
from tests.kit.waiting import until

Trouble = Literal["outage", "denied", "lost_reply", "no_capacity"]
"""The API answers nobody (or only 5xx); it answers, and we may do nothing; the next start or stop is done and its reply
lost; the next start finds no room."""


class Rig(Protocol):
    """A provider and what stands behind it. Its transitions take some time: long enough for a call to come between."""

    @property
    def provider(self) -> Provider: ...

    @property
    def machine(self) -> str:
        """Our id of one that sleeps at first."""
        ...

    async def wakes(self) -> int:
        """How often that machine really began to wake."""
        ...


class CloudRig(Rig, Protocol):
    @property
    def unknown(self) -> str:
        """Our id of one whose instance the cloud does not know."""
        ...

    @property
    def orphan(self) -> str:
        """The id, `PROVIDER:INSTANCE`, of one that runs with our mark and is not configured."""
        ...

    async def meet(self, trouble: Trouble) -> None: ...

    async def recover(self) -> None: ...


async def observation(rig: Rig, machine: str | None = None) -> Observation:
    """The machine as the first look that includes it shows it: an engine that is just ending may leave one out."""
    name = machine or rig.machine
    snapshot = await until(rig.provider.observe, lambda snapshot: name in snapshot.observations)
    return snapshot.observations[name]


async def reach(rig: Rig, *powers: PowerState) -> Observation:
    """The machine, once it is seen so."""
    return await until(lambda: observation(rig), lambda seen: seen.power in powers)


async def up(rig: Rig) -> None:
    assert (await rig.provider.start(rig.machine, 1)).outcome == "accepted"
    await reach(rig, "running")


def harmless(result: CallResult) -> bool:
    """It is under way, or it cannot be just now, or a look has to tell: nobody and nothing is given up."""
    return result.outcome in ("accepted", "unknown") or (result.outcome == "refused" and result.scope == "transient")


class ProviderContract:
    """Of every provider."""

    @pytest.fixture
    def rig(self) -> Rig:
        raise NotImplementedError("each provider's tests give their own")

    async def test_a_machine_that_was_never_started_is_off(self, rig: Rig) -> None:
        seen = await observation(rig)
        assert (seen.power, seen.is_active, seen.locked) == ("stopped", False, "")
        assert seen.provider_state

    async def test_a_start_leads_up(self, rig: Rig) -> None:
        assert (await rig.provider.start(rig.machine, 1)).outcome == "accepted"
        seen = await reach(rig, "running")
        assert (seen.reason, seen.scope, seen.leaving) == ("", None, "")
        assert await rig.wakes() == 1

    async def test_a_second_start_makes_no_second_engine(self, rig: Rig) -> None:
        assert (await rig.provider.start(rig.machine, 1)).outcome == "accepted"
        assert harmless(await rig.provider.start(rig.machine, 2))
        await reach(rig, "running")
        assert harmless(await rig.provider.start(rig.machine, 3))
        assert (await observation(rig)).power == "running"
        assert await rig.wakes() == 1

    async def test_starts_at_once_make_one_engine(self, rig: Rig) -> None:
        results = await asyncio.gather(*(rig.provider.start(rig.machine, number) for number in range(4)))
        assert "accepted" in {result.outcome for result in results}
        assert all(map(harmless, results))
        await reach(rig, "running")
        assert await rig.wakes() == 1

    async def test_a_stop_leads_off(self, rig: Rig) -> None:
        await up(rig)
        assert (await rig.provider.stop(rig.machine, force=False)).outcome == "accepted"
        await reach(rig, "stopped")

    async def test_what_was_off_can_be_woken_again(self, rig: Rig) -> None:
        await up(rig)
        await rig.provider.stop(rig.machine, force=False)
        await reach(rig, "stopped")
        await up(rig)
        assert await rig.wakes() == 2

    @pytest.mark.parametrize("force", [False, True])
    async def test_a_stop_of_what_is_off_leaves_it_off(self, rig: Rig, force: bool) -> None:
        assert harmless(await rig.provider.stop(rig.machine, force=force))
        assert (await observation(rig)).power == "stopped"
        await up(rig)

    @pytest.mark.parametrize("force", [False, True])
    async def test_a_second_stop_is_harmless(self, rig: Rig, force: bool) -> None:
        await up(rig)
        assert (await rig.provider.stop(rig.machine, force=False)).outcome == "accepted"
        assert harmless(await rig.provider.stop(rig.machine, force=force))
        await reach(rig, "stopped")

    async def test_a_start_of_what_falls_waits_or_is_refused_for_the_moment(self, rig: Rig) -> None:
        await up(rig)
        await rig.provider.stop(rig.machine, force=False)
        result = await rig.provider.start(rig.machine, 2)
        assert harmless(result)
        if result.outcome == "accepted":
            await reach(rig, "running")
            assert await rig.wakes() == 2
        else:
            assert result.reason
            await reach(rig, "stopped")
            assert await rig.wakes() == 1

    async def test_where_all_is_well_the_self_test_finds_nothing_and_does_nothing(self, rig: Rig) -> None:
        assert await rig.provider.test() == ()
        assert (await observation(rig)).power == "stopped"
        await up(rig)
        assert await rig.provider.test() == ()
        assert (await observation(rig)).power == "running"
        assert await rig.wakes() == 1


class CloudContract(ProviderContract):
    """Of a provider behind a network. `rig` may have configured other machines too."""

    @pytest.fixture
    def rig(self) -> CloudRig:
        raise NotImplementedError("each provider's tests give their own")

    async def test_an_unknown_machine_costs_only_itself(self, rig: CloudRig) -> None:
        await up(rig)
        snapshot = await rig.provider.observe()
        assert snapshot.observations[rig.unknown].power == "not_found"
        assert snapshot.observations[rig.machine].power == "running"

    async def test_calls_to_an_unknown_machine_are_refused_for_it_alone(self, rig: CloudRig) -> None:
        for result in (await rig.provider.start(rig.unknown, 1), await rig.provider.stop(rig.unknown, force=False)):
            assert (result.outcome, result.scope) == ("refused", "machine")
            assert result.code
            assert result.reason

    async def test_orphan_is_observed_and_can_be_put_to_sleep(self, rig: CloudRig) -> None:
        async def orphan() -> Observation:
            (orphans,) = (await rig.provider.observe()).orphans
            assert orphans.id == rig.orphan
            assert orphans.id.startswith(f"{orphans.provider}:")
            return orphans.observation

        assert (await orphan()).power == "running"
        assert rig.orphan not in (await rig.provider.observe()).observations
        assert (await rig.provider.stop(rig.orphan, force=False)).outcome == "accepted"
        await until(orphan, lambda seen: seen.power == "stopped")

    async def test_a_start_whose_reply_is_lost_is_unknown_and_not_repeated(self, rig: CloudRig) -> None:
        await rig.meet("lost_reply")
        result = await rig.provider.start(rig.machine, 1)
        assert (result.outcome, bool(result.reason)) == ("unknown", True)
        await reach(rig, "running")
        assert await rig.wakes() == 1

    async def test_a_stop_whose_reply_is_lost_is_unknown(self, rig: CloudRig) -> None:
        await up(rig)
        await rig.meet("lost_reply")
        assert (await rig.provider.stop(rig.machine, force=False)).outcome == "unknown"
        await reach(rig, "stopped")

    async def test_in_an_outage_nothing_is_known_and_afterwards_all_is_well(self, rig: CloudRig) -> None:
        await rig.meet("outage")
        with pytest.raises(ProviderUnavailable):
            await rig.provider.observe()
        for result in (await rig.provider.start(rig.machine, 1), await rig.provider.stop(rig.machine, force=False)):
            assert result.outcome in ("unknown", "failed")
            assert result.reason
        assert await rig.provider.test()
        await rig.recover()
        assert (await observation(rig)).power == "stopped"
        await up(rig)
        assert await rig.provider.test() == ()

    async def test_missing_permission_is_refused_and_fails_the_self_test(self, rig: CloudRig) -> None:
        await rig.meet("denied")
        with pytest.raises(ProviderUnavailable):
            await rig.provider.observe()
        for result in (await rig.provider.start(rig.machine, 1), await rig.provider.stop(rig.machine, force=False)):
            assert result.outcome == "refused"
            assert result.scope in ("machine", "account")
            assert result.code
            assert result.reason
        assert await rig.provider.test()
        assert await rig.wakes() == 0
        await rig.recover()
        await up(rig)

    async def test_a_start_without_room_concerns_the_pool(self, rig: CloudRig) -> None:
        await rig.meet("no_capacity")
        result = await rig.provider.start(rig.machine, 1)
        if result.outcome == "accepted":
            seen = await reach(rig, "stopped", "error")
            assert seen.scope == "capacity_pool"
            assert seen.reason
        else:
            assert (result.outcome, result.scope) == ("refused", "capacity_pool")
            assert result.reason
        assert (await observation(rig)).pool
        await up(rig)
