"""The machines as an operator sees them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shared.bus.subjects import token
from shared.fleet_rows import MachineUse
from shared.messages.waker import CommandKind, MachineRecord

KNOWN_S = 30.0
"""How old the fleet's view may be: the bus confirms it every 5 s. Beyond it, what is shown may be of the past."""


@dataclass(frozen=True, kw_only=True)
class BoardMachine:
    """One machine. Times are Unix seconds by the waker's clock."""

    record: MachineRecord
    path: str
    """Under which its orders are."""
    in_flight: int | None
    """None: no gateway has reported lately."""
    orders: Sequence[CommandKind]
    """Those that make sense for its state."""


@dataclass(frozen=True, kw_only=True)
class FleetBoard:
    """All machines as of one moment."""

    as_of: float
    is_current: bool
    """Whether the bus has confirmed it lately."""
    gateways: int
    """Gateways that have reported within the last seconds."""
    machines: Sequence[BoardMachine]


def machine_path(machine: str) -> str:
    """Return where a machine's orders are. Its name may have any characters."""
    return f"/operator/machines/{token(machine)}"


def fleet_board(
    records: Iterable[MachineRecord],
    uses: Mapping[str, MachineUse],
    *,
    static: frozenset[str],
    gateways: int,
    view_age_s: float,
    now: float,
) -> FleetBoard:
    """Return the board, ordered by id. `static`: the tiers whose machines never sleep."""
    return FleetBoard(
        as_of=now,
        is_current=view_age_s <= KNOWN_S,
        gateways=gateways,
        machines=[
            BoardMachine(
                record=record,
                path=machine_path(record.machine),
                in_flight=uses.get(record.machine, MachineUse()).in_flight if gateways else None,
                orders=_orders(record, sleeps=record.tier not in static),
            )
            for record in sorted(records, key=lambda record: record.machine)
        ],
    )


def _orders(record: MachineRecord, *, sleeps: bool) -> list[CommandKind]:
    orders: list[CommandKind] = []
    if sleeps and record.state in ("asleep", "falling_asleep", "broken") and not record.cordoned:
        orders.append("wake")
    if sleeps and record.state in ("ready", "waking", "draining"):
        orders.append("hibernate")
    orders.append("uncordon" if record.cordoned else "cordon")
    return orders
