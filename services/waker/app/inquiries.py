"""What a term asks of providers and engines. Each answer becomes an event in the inbox; no error leaves."""

from collections.abc import Callable

import structlog

from services.waker.app.inbox import Inbox
from services.waker.app.term_resources import TermResources
from services.waker.core.events import CountRequests, Observed, Probe, Probed, RequestsCounted, Tested
from services.waker.ports import ProbeResult, ProviderUnavailable, RequestCount
from shared.config.providers import ProviderName

log = structlog.get_logger()


class Inquiries:
    """Asks, whatever the one asked does: its data is foreign, and what it breaks concerns it alone."""

    def __init__(self, resources: TermResources, inbox: Inbox, now: Callable[[], float]) -> None:
        self._providers = resources.providers
        self._prober = resources.prober
        self._inbox = inbox
        self._now = now

    async def observe(self, provider: ProviderName) -> None:
        self._inbox.put(("observe", provider), await self.observation_of(provider))

    async def observation_of(self, provider: ProviderName) -> Observed:
        """Observe a provider, and return the event."""
        requested_at = self._now()
        try:
            snapshot = await self._providers[provider].observe()
        except ProviderUnavailable as error:
            log.warning("provider_observation_failed", provider=provider, reason=str(error))
            return Observed(provider=provider, requested_at=requested_at, observations={}, error=str(error))
        except Exception as error:
            log.exception("provider_observation_failed", provider=provider)
            return Observed(provider=provider, requested_at=requested_at, observations={}, error=describe_defect(error))
        return Observed(
            provider=provider,
            requested_at=requested_at,
            observations=snapshot.observations,
            orphans=snapshot.orphans,
        )

    async def test(self, provider: ProviderName) -> None:
        try:
            faults = await self._providers[provider].test()
        except Exception as error:
            log.exception("provider_self_test_failed", provider=provider)
            faults = (describe_defect(error),)
        for fault in faults:
            log.warning("provider_self_test_failed", provider=provider, fault=fault)
        self._inbox.put(("test", provider), Tested(provider=provider, faults=faults))

    async def probe(self, probe: Probe) -> None:
        began = self._now()
        send = self._prober.reach if probe.step == "reach" else self._prober.work
        try:
            result = await send(probe.machine, probe.endpoint, probe.model, probe.timeout_s)
        except Exception as error:
            log.exception("probe_failed", machine=probe.machine)
            result = ProbeResult(answered=False, code=describe_defect(error), is_host_up=True)
        event = Probed(
            machine=probe.machine,
            serial=probe.serial,
            step=probe.step,
            answered=result.answered,
            seconds=self._now() - began,
            is_host_up=result.is_host_up,
            mismatch=result.mismatch,
            code=result.code,
            tokens=result.tokens,
            max_model_len=result.max_model_len,
        )
        self._inbox.put(("probe", probe.machine), event)

    async def count_requests(self, count: CountRequests) -> None:
        began = self._now()
        try:
            result = await self._prober.count_requests(count.machine, count.endpoint, count.timeout_s)
        except Exception as error:
            log.exception("request_count_failed", machine=count.machine)
            result = RequestCount(running=None, answered=False, code=describe_defect(error))
        event = RequestsCounted(
            machine=count.machine,
            serial=count.serial,
            running=result.running,
            answered=result.answered,
            seconds=self._now() - began,
            code=result.code,
        )
        self._inbox.put(("count", count.machine), event)


def describe_defect(error: Exception) -> str:
    """The error in one line; the log has the traceback."""
    return f"internal error, see the waker's log: {type(error).__name__}: {error}"
