"""The virtual machines of the pretended Hyperstack: their states and what they cost, by a clock that is given."""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

ENDS = {"HIBERNATING": "HIBERNATED", "RESTORING": "ACTIVE", "STARTING": "ACTIVE", "STOPPING": "SHUTOFF"}
"""Where a change leads when nothing goes wrong."""
BEGINS = {
    "hibernate": ("ACTIVE", "HIBERNATING"),
    "hibernate-restore": ("HIBERNATED", "RESTORING"),
    "start": ("SHUTOFF", "STARTING"),
    "stop": ("ACTIVE", "STOPPING"),
}
"""What each call needs, and what it brings."""
PRICES = {"ACTIVE": 5.0, "SHUTOFF": 5.0, "HIBERNATED": 0.016}
"""USD an hour; every other state is free."""
NAMES = {"HIBERNATING": "HibernateInstance", "RESTORING": "RestoreHibernationInstance"}


@dataclass
class FakeVm:
    """One virtual machine. It moves on when it is looked at."""

    id: int
    name: str
    status: str
    since: float
    seconds: float
    """How long each of its changes takes."""
    labels: list[str] = field(default_factory=list)
    hibernates: bool = True
    region: str = "CANADA-1"
    ip: str = "192.0.2.1"
    keeps_ip: bool = True
    listed: bool = True
    """False: the list lacks it, yet it is found by its id."""
    ends: deque[str] = field(default_factory=deque)
    """Where its next changes lead instead, such as `ERROR`, or `ACTIVE` for a hibernate that bounces."""
    past: list[tuple[str, float, float]] = field(default_factory=list)
    """States that are over: name, beginning, seconds."""
    events: list[dict[str, Any]] = field(default_factory=list)

    def settle(self, now: float) -> None:
        if self.status not in ENDS or now < self.since + self.seconds:
            return
        was, due = self.status, self.since + self.seconds
        meant = ENDS[was]
        end = self.ends.popleft() if self.ends else meant
        self.become(end, due)
        if was in NAMES:
            self.note(f"{NAMES[was]}{'Success' if end == meant else 'Failed'}", "" if end == meant else "no valid host")
        if was == "RESTORING" and end == "ACTIVE" and not self.keeps_ip:
            self.ip = f"192.0.2.{int(self.ip.rpartition('.')[2]) + 1}"
            self.keeps_ip = True

    def become(self, status: str, now: float) -> None:
        self.past.append((self.status, self.since, now - self.since))
        self.status, self.since = status, now

    def begin(self, call: str, now: float, *, retain_ip: bool) -> str:
        """Why not; empty: it has begun."""
        needs, brings = BEGINS[call]
        if self.status != needs:
            return f"Virtual machine must be in {needs} state, it is in {self.status} state"
        if call == "hibernate":
            if not self.hibernates:
                return "The flavor of this virtual machine does not support hibernation"
            self.keeps_ip = retain_ip
        self.become(brings, now)
        return ""

    def note(self, kind: str, reason: str) -> None:
        self.events.append(
            {
                "instance_id": self.id,
                "type": kind,
                "reason": reason,
                "message": kind,
                "object": "instance",
                "org_id": 1,
                "user_id": 1,
                "time": f"2026-01-01T00:00:{len(self.events):02d}",
            }
        )

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "status": self.status,
            "power_state": "RUNNING" if self.status == "ACTIVE" else "SHUTDOWN",
            "vm_state": "active" if self.status == "ACTIVE" else "stopped",
            "environment": {"id": 1, "name": "default", "org_id": 1, "region": self.region, "features": {}},
            "flavor": {
                "id": 1,
                "name": "n3-H100x2",
                "cpu": 60,
                "ram": 360.0,
                "disk": 100,
                "ephemeral": 1500,
                "gpu": "H100-80G-PCIe",
                "gpu_count": 2,
                "features": {"no_hibernation": not self.hibernates, "no_snapshot": False},
                "labels": [],
            },
            "image": {"name": "Ubuntu Server 24.04"},
            "keypair": {"name": "key"},
            "labels": self.labels,
            "fixed_ip": "10.0.0.1",
            "floating_ip": self.ip,
            "floating_ip_status": "ATTACHED",
            "locked": False,
            "security_rules": [],
            "volume_attachments": [],
            "created_at": "2026-01-01T00:00:00",
            "callback_url": None,
            "contract_id": None,
        }

    def bill(self, now: float) -> dict[str, Any]:
        """Each state's time and all that it cost. The true API says no unit of its times: here they are seconds."""
        times: dict[str, float] = defaultdict(float)
        for status, _, seconds in [*self.past, (self.status, self.since, now - self.since)]:
            times[status] += seconds
        cost = sum(times[status] * price / 3600 for status, price in PRICES.items())
        return {
            "incurred_bill": cost,
            "non_discounted_bill": cost,
            "price_per_hour": PRICES.get(self.status, 0.0),
            "non_discounted_price_per_hour": PRICES.get(self.status, 0.0),
            "usage_time": sum(times[status] for status in PRICES),
            **{f"usage_time_{status}": times[status] for status in PRICES},
        }

    def billing_events(self, now: float) -> list[dict[str, Any]]:
        return [
            {
                "event": status,
                "start": f"{start:.3f}",
                "event_duration": seconds,
                "price_per_hour": PRICES.get(status, 0.0),
                "total_cost": seconds * PRICES.get(status, 0.0) / 3600,
            }
            for status, start, seconds in [*self.past, (self.status, self.since, now - self.since)]
        ]
