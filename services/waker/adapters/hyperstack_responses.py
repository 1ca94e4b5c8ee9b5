"""What Hyperstack's responses mean to the waker: its states in our words, and what its refusals concern."""

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
"""A state that is not listed here proves nothing."""

NO_MONEY = ("balance", "credit", "payment", "top up")
NO_QUOTA = ("quota", "contract limit")
NO_GPUS = ("no valid host", "stock", "capacity", "not enough", "insufficient resources")
"""Words in a 400. The API's documentation lists none of them."""

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


def observation_of(vm: Vm, reason: str = "", scope: RefusalScope | None = None) -> Observation | None:
    """What the machine's description means; None if its state is unknown to us."""
    power = POWER_STATES.get(vm.state)
    if power is None:
        return None
    return Observation(power=power, provider_state=vm.state, pool=vm.pool, quota=vm.quota, reason=reason, scope=scope)


def result_of(error: HyperstackError) -> CallResult:
    """The result of a failed call. After a 400 about the machine's state, the machine must be observed as well."""
    if not error.may_have_arrived:
        return CallResult(outcome="refused", code=error.code, reason=error.detail, scope="transient")
    if error.status < 300 or error.status >= 500 or error.status == 408:
        return CallResult(outcome="unknown", code=error.code, reason=error.detail)
    scope, why = _rule(error)
    return refused(scope, f"{why}; {error.detail}" if why else error.detail, error.code)


def _rule(error: HyperstackError) -> tuple[RefusalScope, str]:
    if error.status < 400:
        return _REDIRECT
    if error.status in _RULES:
        return _RULES[error.status]
    detail = error.detail.lower()
    if any(sign in detail for sign in NO_MONEY):
        return _RULES[402]
    if any(sign in detail for sign in NO_QUOTA):
        return "quota", f"the account's quota for this GPU is used up: ask Hyperstack for more at {_CONSOLE}"
    if any(sign in detail for sign in NO_GPUS):
        return "capacity_pool", "no GPUs for it at the moment"
    return "machine", ""


def refused(scope: RefusalScope, reason: str, code: str = "") -> CallResult:
    return CallResult(outcome="refused", code=code, reason=reason, scope=scope)


def failure_of(events: Sequence[VmEvent]) -> tuple[str, RefusalScope | None]:
    """Why the machine's last change failed, and what that concerns; no scope if it did not fail."""
    ends = [event for event in events if event.type and event.type.endswith(("Failed", "Success"))]
    last = max(ends, key=lambda event: event.time or "", default=None)
    if last is None or last.type is None or last.type.endswith("Success"):
        return "", None
    reason = ": ".join(part for part in (last.type, last.reason or last.message) if part)
    # Restoring needs a free host: if it fails without a reason, that is the most likely one.
    return reason, "capacity_pool" if "Restore" in last.type else "machine"


def stock_of(regions: Sequence[StockRegion], vm: Vm) -> str:
    """How many machines like this one its region has in stock, as text; empty if unknown."""
    gpu, size = (vm.flavor.gpu, f"{vm.flavor.gpu_count}x") if vm.flavor else (None, "")
    for region in regions:
        for stocked in (region.models or []) if region.region == vm.region else []:
            count = (stocked.configurations or {}).get(size)
            if stocked.model == gpu and count is not None:
                return f"in stock at {vm.region}: {count} of {size} {gpu}"
    return ""
