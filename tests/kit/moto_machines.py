"""What moto's EC2 machines lack, inside its server: transitions that take time, states from which a call is refused,
hibernation, spot requests, and starts that are accepted and find no room. One object for the whole server."""

import copy
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partialmethod
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.models import instances as moto

ACCOUNT = "123456789012"
"""What moto takes every caller for."""
CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
SPOT: dict[str, Any] = {
    **dict.fromkeys(("valid_from", "valid_until", "launch_group", "availability_zone_group", "kernel_id")),
    **dict.fromkeys(("ramdisk_id", "user_data", "subnet_id")),
    "price": "1",
    "image_id": "ami-1",
    "count": 1,
    "key_name": "",
    "security_groups": [],
    "spot_instance_type": "persistent",
    "instance_interruption_behaviour": "stop",
    "monitoring_enabled": False,
}
NO_CAPACITY = "Server.InsufficientInstanceCapacity"


@dataclass
class Course:
    """Where a machine is going."""

    due: float
    what: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class Call:
    """What moto does not pass on of a request."""

    hibernate: bool = False
    force: bool = False


class Machines:
    def __init__(self, region: str) -> None:
        self._region = region
        self.lock = threading.RLock()
        self.request = threading.local()
        self._moto_start: Callable[[Any], Any] = moto.Instance.start
        self._moto_stop: Callable[[Any], Any] = moto.Instance.stop
        self.reset()
        for name, ours in (("start", self.start), ("stop", self.stop)):
            setattr(moto.Instance, name, partialmethod(_turned, ours))

    def reset(self) -> None:
        with self.lock:
            self.seconds = {"start": 0.2, "stop": 0.2}
            self.no_hibernation_before = 0.0
            self.empty_starts = 0
            self.lag = 0.0
            self.wakes: Counter[str] = Counter()
            self._courses: dict[str, Course] = {}
            self._before: dict[str, list[tuple[float, Any, Any]]] = {}
            """When each machine changed, and its state and that state's reason until then."""
            self._awake_since: dict[str, float] = {}
            self._spot: dict[str, Any] = {}
            ec2_backends.reset()

    def take(self, **seconds: float) -> None:
        """How long transitions take, those included that are under way."""
        with self.lock:
            for course in self._courses.values():
                course.due += seconds.get(course.what, self.seconds[course.what]) - self.seconds[course.what]
            self.seconds.update(seconds)

    @property
    def backend(self) -> Any:
        return ec2_backends[ACCOUNT][self._region]

    def instance(self, instance_id: str) -> Any:
        return self.backend.get_instance(instance_id)

    def add(self, *, kind: str, zone: str, tags: dict[str, str], running: bool, hibernates: bool, spot: bool) -> str:
        """A machine, without a call being counted; its id."""
        options = {"instance_type": kind, "tags": {"instance": tags}}
        if spot:
            (request,) = self.backend.request_spot_instances(placement=zone, **SPOT, **options)
            instance = request.instance
            instance.spot_instance_request_id = request.id
            self._spot[instance.id] = request
        else:
            instance = self.backend.run_instances(
                *("ami-1", 1, None, []), placement=zone, is_instance_type_default=False, **options
            ).instances[0]
        instance.hibernation_options = {"Configured": hibernates}
        if not running:
            self._moto_stop(instance)
        return str(instance.id)

    def start(self, instance: Any) -> Any:
        with self.lock:
            self.tick()
            before = copy.copy(instance._state)
            request = self._spot.get(instance.id)
            if before.name not in ("stopped", "pending", "running"):
                raise _bad_state(instance, "started")
            if request is not None and before.name == "stopped":
                if request._status_code != "instance-stopped-by-user":
                    raise EC2ClientError("IncorrectSpotRequestState", "The spot request is not one that may be started")
                request.state, request._status_code = "active", "fulfilled"
            if before.name == "stopped":
                self.wakes[instance.id] += 1
                self._set(instance, "pending")
                room = self.empty_starts == 0
                self.empty_starts = max(0, self.empty_starts - 1)
                self._go(instance, "start", *(("running",) if room else ("stopped", NO_CAPACITY)))
            return before

    def stop(self, instance: Any) -> Any:
        call: Call = getattr(self.request, "call", Call())
        with self.lock:
            self.tick()
            before = copy.copy(instance._state)
            if before.name not in ("running", "stopping", "stopped"):
                raise _bad_state(instance, "stopped")
            if before.name == "stopping" and call.force:
                self._courses[instance.id].due = 0.0
            if before.name == "running":
                if call.hibernate:
                    self._may_hibernate(instance)
                self._set(instance, "stopping")
                self._go(
                    instance, "stop", "stopped", f"Client.UserInitiated{'Hibernate' * call.hibernate or 'Shutdown'}"
                )
                self._spot_stops(instance, "instance-stopped-by-user")
            return before

    def reclaim(self, instance_id: str, code: str) -> None:
        """What EC2 does to spot machines: it marks one, or stops it with that status."""
        with self.lock:
            request = self._spot[instance_id]
            request._status_code = code
            if code.startswith("instance-stopped"):
                instance = self.instance(instance_id)
                self._moto_stop(instance)
                instance.state_reason = moto.StateReason("Spot instance shutdown", "Server.SpotInstanceShutdown")
                request.state = "disabled"

    def terminate(self, instance_id: str) -> None:
        with self.lock:
            self.instance(instance_id).terminate()

    def states(self) -> dict[str, str]:
        """As they are, however late descriptions may be."""
        with self.lock:
            self.tick()
            return {i.id: i._state.name for r in self.backend.all_reservations() for i in r.instances}

    def tick(self) -> None:
        """What is due happens. Called before anybody looks."""
        with self.lock:
            for instance_id, course in list(self._courses.items()):
                if time.monotonic() < course.due:
                    continue
                del self._courses[instance_id]
                instance = self.instance(instance_id)
                self._changes(instance)
                if course.state == "running":
                    self._moto_start(instance)
                    instance.launch_time = utcnow()
                    self._awake_since[instance_id] = time.monotonic()
                else:
                    self._moto_stop(instance)
                    instance.state_reason = moto.StateReason(f"{course.reason}: simulated", course.reason)

    @contextmanager
    def as_described(self) -> Iterator[None]:
        """Meanwhile each machine is as it was `lag` seconds ago: not all of EC2 knows at once what was done."""
        with self.lock:
            since = time.monotonic() - self.lag
            late = {i: [(state, why) for at, state, why in was if at > since] for i, was in self._before.items()}
            now = {i: _swap(self.instance(i), *was[0]) for i, was in late.items() if was}
            try:
                yield
            finally:
                for i, after in now.items():
                    _swap(self.instance(i), *after)

    def _changes(self, instance: Any) -> None:
        before = time.monotonic(), copy.copy(instance._state), instance.state_reason
        self._before.setdefault(instance.id, []).append(before)

    def _set(self, instance: Any, state: str) -> None:
        self._changes(instance)
        instance._state.name, instance._state.code = state, CODES[state]

    def _go(self, instance: Any, what: str, state: str, reason: str = "") -> None:
        self._courses[instance.id] = Course(time.monotonic() + self.seconds[what], what, state, reason)

    def _spot_stops(self, instance: Any, code: str) -> None:
        if request := self._spot.get(instance.id):
            request.state, request._status_code = "disabled", code

    def _may_hibernate(self, instance: Any) -> None:
        if not (instance.hibernation_options or {}).get("Configured"):
            raise EC2ClientError(
                "UnsupportedHibernationConfiguration", f"The instance '{instance.id}' has no hibernation configured"
            )
        if time.monotonic() - self._awake_since.get(instance.id, 0.0) < self.no_hibernation_before:
            raise EC2ClientError("UnsupportedOperation", f"The instance '{instance.id}' is not ready to hibernate yet")


def _turned(instance: Any, ours: Callable[[Any], Any]) -> Any:
    return ours(instance)


def _swap(instance: Any, state: Any, reason: Any) -> tuple[Any, Any]:
    was = instance._state, instance.state_reason
    instance._state, instance.state_reason = state, reason
    return was


def _bad_state(instance: Any, verb: str) -> EC2ClientError:
    return EC2ClientError(
        "IncorrectInstanceState", f"The instance '{instance.id}' is not in a state from which it can be {verb}."
    )
