"""Checks machine records from the bus against the configuration, which decides where requests may go."""

from collections.abc import Callable
from urllib.parse import urlsplit

from shared.bus.view import Irrelevant
from shared.config.fleet import Machine
from shared.config.sections import Config
from shared.messages.codec import Unreadable
from shared.messages.waker import REMOVED, MachineRecord

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def record_check(config: Config) -> Callable[[str, MachineRecord], None]:
    """Return the check that a view of the fleet applies to each record. It raises `Unreadable` with the reason."""
    machines = config.machines

    def check(key: str, record: MachineRecord) -> None:
        if record.alarm_reason == REMOVED:
            raise Irrelevant("the waker's configuration does not have it any more")
        machine = machines.get(key)
        if machine is None:
            raise Unreadable("no [[machine]] has this id")
        check_machine(key, record)
        if record.tier != machine.tier:
            raise Unreadable(f"its tier is {machine.tier!r}, not {record.tier!r}")
        if record.endpoint is not None and not is_assigned(machine, record.endpoint):
            expected = machine.endpoint or "an address of this host"
            raise Unreadable(f"its endpoint is {expected}, not {record.endpoint!r}")

    return check


def check_machine(key: str, record: MachineRecord) -> None:
    """Raise `Unreadable` for a record under another machine's key, as which it would be shown."""
    if record.machine != key:
        raise Unreadable(f"it belongs to another machine, {record.machine!r}")


def is_assigned(machine: Machine, endpoint: str) -> bool:
    """Whether the configuration allows this endpoint. A `process` machine may have any port of this host."""
    if machine.endpoint is not None:
        return endpoint == machine.endpoint.rstrip("/")
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if host not in LOOPBACK or port is None:
        return False
    shown = f"[{host}]" if ":" in host else host
    return endpoint == f"http://{shown}:{port}"
