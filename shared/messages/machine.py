"""What a machine says of itself."""

from typing import Literal

from shared.messages.codec import Message
from shared.messages.values import UnixSeconds

NoticeAction = Literal["stop", "hibernate", "terminate"]
"""What EC2 does with a spot machine that it takes back (`spot/instance-action` of the metadata service)."""


class MachineNotice(Message, frozen=True, kw_only=True, tag="machine_notice.v1"):
    """`machine.notice.<machine>`: its provider takes it back. Repeated for as long as the notice stands."""

    machine: str
    action: NoticeAction
    at: UnixSeconds
    """When the provider does it, by the provider's clock."""
    observed_at: UnixSeconds
    """When the machine last saw the notice, by its own clock: an old notice counts for nothing."""
