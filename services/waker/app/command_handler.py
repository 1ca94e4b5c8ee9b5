"""The operator's commands over the bus: only the leader replies, and only once a command is on record."""

from collections.abc import Awaitable, Callable

from services.waker.core.events import Command
from services.waker.core.fleet_spec import FleetSpec
from shared.bus import subjects
from shared.bus.ports import Bus, Handle
from shared.bus.reply import MAX_REASON
from shared.errors import BusError
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.waker import WakerCommand, WakerReply
from shared.printable import shortened

SERVICE = "waker"


class CommandHandler:
    """Replies to commands while this waker leads. `issue` puts one on record, or raises `BusError`."""

    def __init__(self, bus: Bus, spec: FleetSpec, issue: Callable[[Command], Awaitable[None]]) -> None:
        self._bus = bus
        self._spec = spec
        self._issue = issue

    async def listen(self) -> Handle:
        return await self._bus.respond(SERVICE, subjects.WAKER_COMMAND, self._on_request)

    async def _on_request(self, data: bytes) -> bytes:
        return encode(await self._reply(data))

    async def _reply(self, data: bytes) -> WakerReply:
        try:
            command = decode(data, WakerCommand)
        except Unreadable as error:
            return WakerReply(accepted=False, error=str(error))
        rejection = self._rejection(command)
        if rejection is not None:
            return WakerReply(accepted=False, error=shortened(rejection, MAX_REASON))
        try:
            await self._issue(
                Command(
                    order=command.order,
                    target=command.target,
                    by=command.by,
                    force=command.force,
                    is_machine=command.is_machine,
                    reason=command.reason,
                )
            )
        except BusError as error:
            return WakerReply(accepted=False, error=f"this waker no longer leads: {error}: try again")
        machines = self._spec.lineups[command.target] if _names_model(command) else (command.target,)
        return WakerReply(accepted=True, machines=machines, wake_cap=float(self._spec.wake_cap_s))

    def _rejection(self, command: WakerCommand) -> str | None:
        """Why the command cannot be followed; None if it can."""
        kind, targets = ("model", self._spec.lineups) if _names_model(command) else ("machine", self._spec.machines)
        if command.target not in targets:
            return f"no {kind} is named {command.target!r}: there are {', '.join(sorted(targets)) or 'none'}"
        is_static = targets is self._spec.machines and not self._spec.machines[command.target].sleeps
        if is_static and command.order in ("wake", "hibernate"):
            return f"{command.target} is of provider static and never sleeps: `cordon` keeps it from requests"
        return None


def _names_model(command: WakerCommand) -> bool:
    return command.order == "wake" and not command.is_machine
