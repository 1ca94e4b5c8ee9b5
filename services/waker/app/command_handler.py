"""The operator's orders, over the bus: only the leader answers, and only when what was ordered is on record."""

from collections.abc import Awaitable, Callable

from services.waker.core.events import Command
from services.waker.core.fleet_spec import FleetSpec
from shared.bus import subjects
from shared.bus.ports import Bus, Handle
from shared.errors import BusError
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.waker import WakerCommand, WakerReply

SERVICE = "waker"


class CommandHandler:
    """`listen` while leading; `order` puts one on record or raises `BusError`."""

    def __init__(self, bus: Bus, spec: FleetSpec, order: Callable[[Command], Awaitable[None]]) -> None:
        self._bus = bus
        self._plan = spec
        self._order = order

    async def listen(self) -> Handle:
        return await self._bus.respond(SERVICE, subjects.WAKER_COMMAND, self._answer)

    async def _answer(self, data: bytes) -> bytes:
        try:
            command = decode(data, WakerCommand)
        except Unreadable as error:
            return encode(WakerReply(accepted=False, error=str(error)))
        if fault := self._unknown(command) or self._useless(command):
            return encode(WakerReply(accepted=False, error=fault))
        try:
            await self._order(Command(order=command.order, target=command.target, by=command.by))
        except BusError as error:
            return encode(WakerReply(accepted=False, error=f"this waker no longer leads: {error}: ask again"))
        machines = self._plan.lineups[command.target] if command.order == "wake" else (command.target,)
        return encode(WakerReply(accepted=True, machines=machines, wake_cap=float(self._plan.wake_cap)))

    def _unknown(self, command: WakerCommand) -> str:
        known = self._plan.lineups if command.order == "wake" else self._plan.machines
        if command.target in known:
            return ""
        kind = "model" if command.order == "wake" else "machine"
        return f"no {kind} is named {command.target!r}: there are {', '.join(sorted(known)) or 'none'}"

    def _useless(self, command: WakerCommand) -> str:
        """A machine that never sleeps cannot be put to sleep."""
        if command.order == "hibernate" and not self._plan.machines[command.target].sleeps:
            return f"{command.target} is of provider static and never sleeps: `cordon` keeps it from requests"
        return ""
