"""An engine of a few lines, run as a command: answers one token, or misbehaves as its arguments say.

Standard library only, so that it is up within a tenth of a second.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar


class Handler(BaseHTTPRequestHandler):
    """`/who` tells what the tests want to know of the process."""

    chat_only = False
    loading = False
    request_log = Path(os.devnull)
    sleeping: ClassVar[set[str]] = set()
    """What of its memory it has given back, as vLLM does."""
    gpus = Path(os.devnull)
    faulty: ClassVar[list[str]] = []
    """Paths that it answers with 500, and `hang:PATH` those that it does not answer."""

    def do_GET(self) -> None:
        if self.loading:
            self._answer(503, {"error": "loading"})
        elif self.path == "/who":
            content = {"pid": os.getpid(), "pgid": os.getpgid(0), "path": os.environ["PATH"], "lifeline": _lifeline()}
            content["environment"] = sorted(os.environ)
            self._answer(200, content)
        elif self.path == "/is_sleeping":
            self._sleep_mode(lambda: {"is_sleeping": bool(self.sleeping)})
        else:
            self._answer(200, {"data": []})

    def _sleep_mode(self, answer: Callable[[], object]) -> None:
        """As vLLM's: there in its development mode alone."""
        path = self.path.partition("?")[0]
        if os.environ.get("VLLM_SERVER_DEV_MODE") != "1":
            self._answer(404, {"detail": "Not Found"})
        elif path in self.faulty:
            self._answer(500, {"error": "out of memory"})
        elif f"hang:{path}" in self.faulty:
            threading.Event().wait(60)
        else:
            self._answer(200, answer())

    def _change_sleep(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/sleep":
            self.sleeping.update(("weights", "kv_cache"))
            note_gpus(self.gpus, "gives")
        elif path == "/wake_up":
            note_gpus(self.gpus, "takes")
            self.sleeping.difference_update([query.removeprefix("tags=")] if query else ["weights", "kv_cache"])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"] or 0)) or b"{}")
        with self.request_log.open("a") as file:
            file.write(json.dumps({"path": self.path, **body}) + "\n")
        if self.path.partition("?")[0] in ("/sleep", "/wake_up", "/collective_rpc"):
            self._sleep_mode(self._change_sleep)
        elif self.sleeping:
            threading.Event().wait(60)  # as vLLM, which answers when it is woken
        elif self.chat_only and self.path == "/v1/completions":
            self._answer(404, {"error": "no such page"})
        else:
            self._answer(200, {"choices": [{"text": "x"}], "usage": {"total_tokens": 3}})

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: its log is for last words."""


def note_gpus(file: Path, word: str) -> None:
    with file.open("a") as lines:
        lines.write(f"{os.getpid()} {word}\n")


def _lifeline() -> list[str]:
    """Pipes that it inherited, beside its three streams."""
    entries = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            entries.append((int(descriptor.name), str(descriptor.readlink())))
    return [target for number, target in entries if number > 2 and target.startswith("pipe")]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--starts", type=Path, help="a line with its pid is added to this file")
    parser.add_argument("--request-log", type=Path, help="a line for each request that it has to work for")
    parser.add_argument("--die", type=int, help="end at once with this status")
    parser.add_argument("--stubborn", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--chat-only", action="store_true")
    parser.add_argument("--loading", action="store_true", help="never get ready")
    parser.add_argument("--faulty", action="append", default=[], help="a path that is answered with 500, or hang:PATH")
    parser.add_argument(
        "--gpus", type=Path, default=Path(os.devnull), help="a line when it takes their memory or gives it"
    )
    arguments = parser.parse_args()
    Handler.gpus = arguments.gpus
    note_gpus(arguments.gpus, "takes")
    Handler.faulty.extend(arguments.faulty)
    if arguments.starts:
        with arguments.starts.open("a") as file:
            file.write(f"{os.getpid()}\n")
    if arguments.die is not None:
        print("loading the weights\nno memory left", file=sys.stderr)
        sys.exit(arguments.die)
    if arguments.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Handler.chat_only, Handler.loading = arguments.chat_only, arguments.loading
    Handler.request_log = arguments.request_log or Handler.request_log
    ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
