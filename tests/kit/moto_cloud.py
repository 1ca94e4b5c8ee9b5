"""An EC2 for tests: moto in a process of its own whose machines take their time and whose calls fail as told.

Machines have the region `us-east-1`; any credentials are good.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.request import Request, urlopen

from tests.kit.waiting import PATIENCE_SECONDS

REGION = "us-east-1"
FLEET_TAG = "spotinference:fleet"


class MotoCloud:
    """The server's control door. Machines go by EC2's instance ids."""

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url

    def add_machine(
        self,
        *,
        kind: str = "p5.48xlarge",
        zone: str = "us-east-1a",
        fleet: str | None = None,
        running: bool = False,
        hibernates: bool = False,
        spot: bool = False,
    ) -> str:
        """Its instance id; it sleeps unless `running`. A spot machine is of a persistent request."""
        tags = {} if fleet is None else {FLEET_TAG: fleet}
        options = {"kind": kind, "zone": zone, "tags": tags, "running": running, "hibernates": hibernates, "spot": spot}
        return str(self._control("add", **options))

    def fail(
        self,
        action: str,
        *,
        code: str = "",
        status: int = 400,
        message: str = "injected",
        times: int | None = 1,
        lost_reply: bool = False,
        seconds: float = 0.0,
        instance: str = "",
    ) -> None:
        """The next `times` calls of an action (`*`: of any; None: all until `heal`) are answered with this error.

        `lost_reply`: the call is done all the same; without a code its connection is cut. `seconds`: it takes so much
        longer. `instance`: only calls that name it.
        """
        shape = {"code": code, "status": status, "message": message, "times": times}
        self._control("fail", action=action, lost_reply=lost_reply, seconds=seconds, instance=instance, **shape)

    def heal(self) -> None:
        """No more faults."""
        self._control("heal")

    def empty(self, times: int = 1) -> None:
        """The next starts are accepted, and end where they began: no capacity."""
        self._control("empty", times=times)

    def take(self, *, start: float | None = None, stop: float | None = None) -> None:
        """How many seconds transitions take, those included that are under way."""
        self._control("seconds", **{k: v for k, v in (("start", start), ("stop", stop)) if v is not None})

    def lag(self, seconds: float) -> None:
        """Descriptions are so old; a call knows the truth."""
        self._control("lag", seconds=seconds)

    def no_hibernation_before(self, seconds: float) -> None:
        """So soon after its start no machine hibernates."""
        self._control("no_hibernation_before", seconds=seconds)

    def reclaim(self, instance: str, code: str) -> None:
        """EC2 marks a spot machine (`marked-for-stop`), or stops it (`instance-stopped-no-capacity`)."""
        self._control("reclaim", instance_id=instance, code=code)

    def terminate(self, instance: str) -> None:
        self._control("terminate", instance_id=instance)

    def states(self) -> dict[str, str]:
        """EC2's words for what each machine does, by its id; no call that is counted."""
        return dict(self._control("states"))

    def wakes(self, instance: str) -> int:
        """How often it went from `stopped` to `pending`."""
        return int(self._control("wakes").get(instance, 0))

    def calls(self) -> dict[str, int]:
        """By action; dry runs apart, as `StartInstances.DryRun`."""
        return dict(self._control("calls"))

    def reset(self) -> None:
        """No machines, no faults, no counts."""
        self._control("reset")

    def _control(self, name: str, **arguments: Any) -> Any:
        request = Request(f"{self.endpoint_url}/_control/{name}", json.dumps(arguments).encode(), method="POST")
        with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)


@contextmanager
def moto_process() -> Iterator[MotoCloud]:
    """For as many tests as want it, one after another: it takes two seconds to start. `reset` between them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kit.moto_server"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "moto's server did not start: run `python -m tests.kit.moto_server`"
        yield MotoCloud(f"http://127.0.0.1:{int(line)}")
    finally:
        process.kill()
        process.wait(PATIENCE_SECONDS)
        if process.stdout is not None:
            process.stdout.close()


@asynccontextmanager
async def moto_cloud() -> AsyncIterator[MotoCloud]:
    """A cloud of the test's own."""
    process = moto_process()
    cloud = await asyncio.to_thread(process.__enter__)
    try:
        yield cloud
    finally:
        await asyncio.to_thread(process.__exit__, None, None, None)
