"""moto's EC2 as a process, behind a layer that counts calls and makes them fail: `python -m tests.kit.moto_server`.

It prints its port. `POST /_control/NAME` with a JSON object of arguments is the test's own door; see `MotoCloud`.
"""

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.kit.moto_machines import Call, Machines

CONTROL = "/_control/"

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


@dataclass(kw_only=True)
class Fault:
    """How calls of one action (`*`: of all) go wrong."""

    action: str
    code: str = ""
    status: int = 0
    message: str = "injected"
    times: int | None = 1
    """None: until healed."""
    lost_reply: bool = False
    """It is done all the same; without a code, the connection is cut instead of an answer."""
    seconds: float = 0.0
    """Before anything else happens."""
    instance: str = ""
    """Only calls that name it."""

    def concerns(self, action: str, parameters: dict[str, list[str]]) -> bool:
        named = not self.instance or any(self.instance in values for values in parameters.values())
        return self.times != 0 and named and self.action in (action, "*")


class Layer:
    """A WSGI application around moto's."""

    def __init__(self, region: str) -> None:
        self._machines = Machines(region)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._calls: Counter[str] = Counter()
        self._faults: list[Fault] = []
        self._controls: dict[str, Callable[..., Any]] = {
            "add": self._machines.add,
            "calls": lambda: dict(self._calls),
            "empty": lambda times: setattr(self._machines, "empty_starts", times),
            "fail": lambda **fault: self._faults.append(Fault(**fault)),
            "heal": self._heal,
            "lag": lambda seconds: setattr(self._machines, "lag", seconds),
            "no_hibernation_before": lambda seconds: setattr(self._machines, "no_hibernation_before", seconds),
            "reclaim": self._machines.reclaim,
            "reset": self._reset,
            "seconds": self._machines.take,
            "states": self._machines.states,
            "terminate": self._machines.terminate,
            "wakes": lambda: dict(self._machines.wakes),
        }

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ["PATH_INFO"].startswith(CONTROL):
            result = self._controls[environ["PATH_INFO"].removeprefix(CONTROL)](**json.loads(body))
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(result).encode()]
        environ["wsgi.input"] = BytesIO(body)
        parameters = parse_qs(body.decode("latin1"))
        action = parameters.get("Action", [""])[0]
        fault = self._count(action, parameters)
        if fault is None:
            return self._moto(environ, start_response, parameters)
        time.sleep(fault.seconds)
        if fault.lost_reply:
            list(self._moto(environ, lambda *_a, **_k: None, parameters))
        if fault.code:
            start_response(f"{fault.status} Injected", [("Content-Type", "text/xml")])
            return [_error(fault)]
        if fault.lost_reply:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return [b""]
        return self._moto(environ, start_response, parameters)

    def _count(self, action: str, parameters: dict[str, list[str]]) -> Fault | None:
        dry = ".DryRun" if _true(parameters, "DryRun") else ""
        with self._machines.lock:
            self._calls[action + dry] += 1
            fault = next((f for f in self._faults if f.concerns(action, parameters)), None)
            if fault is not None and fault.times is not None:
                fault.times -= 1
            return fault

    def _moto(
        self, environ: Environ, start_response: StartResponse, parameters: dict[str, list[str]]
    ) -> Iterable[bytes]:
        # moto handles a request on the thread that brought it.
        self._machines.request.call = Call(_true(parameters, "Hibernate"), _true(parameters, "Force"))
        self._machines.tick()
        describes = parameters.get("Action", [""])[0].startswith("Describe")
        with self._machines.as_described() if describes else self._machines.lock:
            answer: Iterable[bytes] = self._app(environ, start_response)
            return answer

    def _heal(self) -> None:
        self._faults.clear()
        self._machines.empty_starts = 0

    def _reset(self) -> None:
        self._heal()
        self._calls.clear()
        self._machines.reset()


def _true(parameters: dict[str, list[str]], name: str) -> bool:
    return parameters.get(name, [""])[0].lower() == "true"


def _error(fault: Fault) -> bytes:
    error = f"<Error><Code>{fault.code}</Code><Message>{fault.message}</Message></Error>"
    return f"<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>".encode()


def main() -> None:
    # Images take most of the time of a reset, and no machine here needs one.
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
    server = make_server("127.0.0.1", 0, Layer("us-east-1"), threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
