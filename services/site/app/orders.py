"""An operator's orders: to the waker about machines, to billing about budget gates."""

from services.site.core.people import Person
from shared.bus.ports import Bus
from shared.bus.request import PATIENCE_S, request_reply
from shared.bus.subjects import BILLING_GATE, WAKER_COMMAND
from shared.errors import Rejected
from shared.messages.budget import GateOrder, GateOrdered, Gates
from shared.messages.waker import CommandKind, WakerCommand, WakerReply

REPLY_S = 5.0


def by_of(person: Person) -> str:
    """Return how the journal names a person: logins are renamed, so the identity is there too."""
    return f"{person.login} ({person.identity})"


async def order_machine(
    bus: Bus, person: Person, order: CommandKind, target: str, reason: str, *, is_machine: bool, force: bool = False
) -> None:
    """Return once the leading waker has recorded the order.

    Raises:
        Rejected: it did not take it; the text says why.
        BusUnavailable: no answer. It may have been recorded; repeating it does no harm.
    """
    command = WakerCommand(
        order=order, target=target, by=by_of(person), force=force, is_machine=is_machine, reason=reason
    )
    reply = await request_reply(bus, WAKER_COMMAND, command, WakerReply, timeout=REPLY_S, patience_s=PATIENCE_S)
    if not reply.accepted:
        raise Rejected(reply.error or f"the waker rejected {order} {target} and gave no reason")


async def order_gate(bus: Bus, person: Person, order: GateOrdered, scope: str, reason: str) -> None:
    """Return once billing has stored the order. Raises as `order_machine` does."""
    await request_reply(
        bus,
        BILLING_GATE,
        GateOrder(scope=scope, order=order, by=by_of(person), reason=reason),
        Gates,
        timeout=REPLY_S,
        patience_s=PATIENCE_S,
    )
