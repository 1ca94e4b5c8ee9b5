"""What Hyperstack's answers mean to the waker: its states in our words, its refusals with whom they concern."""

from collections.abc import Mapping, Sequence

from services.waker.adapters.hyperstack_api import StockRegion, Vm, VmEvent
from services.waker.core.events import Observation, PowerState, RefusalScope
from services.waker.ports import CallResult
from shared.clouds.hyperstack import KEY_VARIABLE, HyperstackError

POWER_STATES: Mapping[str, PowerState] = {
    "ACTIVE": "running",
    "HIBERNATED": "stopped",
    "HIBERNATING": "stopping",
    "STOPPING": "stopping",
    "RESTORING": "starting",
    "STARTING": "starting",
    "REBOOTING": "starting",
    "BUILD": "starting",
    "CREATING": "starting",
    "SHUTOFF": "stopped_billed",  # billed in full
    "ERROR": "error",
    "DELETING": "not_found",
    "DELETED": "not_found",
}
"""What is not here is no state that we know: nothing is concluded from it."""

SHORT_OF_MONEY = ("balance", "credit", "payment", "top up")
SHORT_OF_QUOTA = ("quota", "contract limit")
SHORT_OF_GPUS = ("no valid host", "stock", "capacity", "not enough", "insufficient resources")
"""In the words of a 400. The API's own documentation lists none of them."""

_CONSOLE = "https://console.hyperstack.cloud"
_RULES: Mapping[int, tuple[RefusalScope, str]] = {
    401: ("account", f"Hyperstack does not know the key in {KEY_VARIABLE}: make one at {_CONSOLE}, then start anew"),
    402: ("account", f"Hyperstack wants to be paid first: top the account up at {_CONSOLE}"),
    403: ("account", f"the key in {KEY_VARIABLE} may not do this: give its user the right to at {_CONSOLE}"),
    404: ("machine", "Hyperstack has no such machine, or none that this key sees: correct `instance`, or the key"),
    409: ("transient", "another change of it is under way"),
    429: ("transient", "too many calls from this address: everything waits"),
}
_REDIRECT: tuple[RefusalScope, str] = (
    "account",
    "provider.hyperstack.base_url redirects, and is not followed: name the target",
)


def sight_of(vm: Vm, reason: str = "", scope: RefusalScope | None = None) -> Observation | None:
    """None: its state says nothing to us."""
    power = POWER_STATES.get(vm.word)
    if power is None:
        return None
    return Observation(power=power, provider_state=vm.word, pool=vm.pool, quota=vm.quota, reason=reason, scope=scope)


def result_of(fault: HyperstackError) -> CallResult:
    """Of a call that was not answered with success. A 400 about its state wants a look besides."""
    if not fault.made:
        return CallResult(outcome="refused", code=fault.code, reason=fault.words, scope="transient")
    if fault.status < 300 or fault.status >= 500 or fault.status == 408:
        return CallResult(outcome="unknown", code=fault.code, reason=fault.words)
    scope, why = _rule(fault)
    return refused(scope, f"{why}; {fault.words}" if why else fault.words, fault.code)


def _rule(fault: HyperstackError) -> tuple[RefusalScope, str]:
    if fault.status < 400:
        return _REDIRECT
    if fault.status in _RULES:
        return _RULES[fault.status]
    words = fault.words.lower()
    if any(sign in words for sign in SHORT_OF_MONEY):
        return _RULES[402]
    if any(sign in words for sign in SHORT_OF_QUOTA):
        return "quota", f"the account's quota for this GPU is used up: ask Hyperstack for more at {_CONSOLE}"
    if any(sign in words for sign in SHORT_OF_GPUS):
        return "capacity_pool", "no GPUs for it at the moment"
    return "machine", ""


def refused(scope: RefusalScope, reason: str, code: str = "") -> CallResult:
    return CallResult(outcome="refused", code=code, reason=reason, scope=scope)


def failure_of(events: Sequence[VmEvent]) -> tuple[str, RefusalScope | None]:
    """Why a machine is not where it was sent, if its record ends with a failure, and whom that concerns."""
    ends = [event for event in events if event.type and event.type.endswith(("Failed", "Success"))]
    last = max(ends, key=lambda event: event.time or "", default=None)
    if last is None or last.type is None or last.type.endswith("Success"):
        return "", None
    told = ": ".join(part for part in (last.type, last.reason or last.message) if part)
    # Restoring has to find a host; when it fails and nobody says why, that is the likeliest.
    return told, "capacity_pool" if "Restore" in last.type else "machine"


def stock_of(regions: Sequence[StockRegion], vm: Vm) -> str:
    """How many machines like this one its region could give now, in words; empty: not told."""
    gpu, size = (vm.flavor.gpu, f"{vm.flavor.gpu_count}x") if vm.flavor else (None, "")
    for region in regions:
        for stocked in (region.models or []) if region.region == vm.region else []:
            count = (stocked.configurations or {}).get(size)
            if stocked.model == gpu and count is not None:
                return f"in stock at {vm.region}: {count} of {size} {gpu}"
    return ""
