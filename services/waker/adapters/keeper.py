"""The supervisor of one engine: `python -m services.waker.adapters.keeper --folder F --generation N … -- COMMAND`.

It outlives the waker that started it. It ends its engine on SIGTERM, when the lifeline says that the suite has gone,
and, on Linux, by its own death. Standard library only: one of it stays in memory for each running engine.
"""

import argparse
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from services.waker.adapters import keeper_files
from services.waker.adapters.keeper_files import KeeperState

PR_SET_PDEATHSIG = 1
GRACE_SECONDS = 10.0
LIFELINE_GRACE_SECONDS = 5.0
"""The suite was killed: all of it must be gone within 10 s."""
LOCK_SECONDS = 1.0
"""An observation holds the lock for a moment; a keeper holds it for its whole life."""


class Keeper:
    """One engine from start to end."""

    def __init__(self, folder: Path, state: KeeperState, report: int, lifeline: int | None, grace: float) -> None:
        self._folder = folder
        self._state = state
        self._report = report
        self._lifeline = lifeline
        self._grace = grace
        self._wakeup, write_end = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(write_end, False)
        self._stop_requests = 0
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def run(self, command: list[str]) -> None:
        self._write_state("starting")
        port = _free_port()
        argv = [part.replace("{port}", str(port)) for part in command]
        try:
            engine = self._spawn(argv)
        except OSError as error:
            reason = _not_started(argv[0], error)
            self._write_state("refused", reason=reason, ended_at=time.time())
            self._report_start(refused=reason, code=type(error).__name__)
            return
        started = keeper_files.process_start(engine.pid)
        self._write_state("running", port=port, engine=engine.pid, engine_started=started)
        self._report_start(endpoint=f"http://127.0.0.1:{port}")
        status = self._watch(engine)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # what it left behind in its group
            os.killpg(engine.pid, signal.SIGKILL)
        self._write_state("ended", exit_status=status, ended_at=time.time(), reason=self._ending(status))

    def _spawn(self, argv: list[str]) -> "subprocess.Popen[bytes]":
        log = self._folder / keeper_files.LOG_FILE
        with contextlib.suppress(FileNotFoundError):
            log.replace(log.with_suffix(".log.1"))
        environment = dict(os.environ)
        # So that the commands of this installation are found, whoever started us.
        path = environment.get("PATH", os.defpath)
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
        keeper = os.getpid()
        with log.open("ab") as output:
            return subprocess.Popen(
                argv,
                executable=_find_program(argv[0], environment["PATH"]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
                preexec_fn=lambda: _die_with(keeper),  # noqa: PLW1509 - one system call, and we have no other thread
            )

    def _watch(self, engine: "subprocess.Popen[bytes]") -> int:
        """Wait until the engine has ended, and return its exit status."""
        deadline: float | None = None
        while engine.poll() is None:
            if self._stop_requests and deadline is None:
                deadline = time.monotonic() + self._grace
                self._write_state("stopping")
                os.killpg(engine.pid, signal.SIGTERM)
            if deadline is not None and (self._stop_requests > 1 or time.monotonic() >= deadline):
                os.killpg(engine.pid, signal.SIGKILL)
                return engine.wait()
            self._wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return engine.wait()

    def _wait(self, timeout: float | None) -> None:
        """Wait for a signal or the end of the lifeline."""
        watched = [self._wakeup] if self._lifeline is None else [self._wakeup, self._lifeline]
        readable, _, _ = select.select(watched, [], [], timeout)
        if self._lifeline in readable:
            self._lifeline = None
            self._stop_requests = max(self._stop_requests, 1)
            self._grace = min(self._grace, LIFELINE_GRACE_SECONDS)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 512)

    def _on_signal(self, *_: object) -> None:
        self._stop_requests += 1

    def _ending(self, status: int) -> str:
        how = f"by signal {-status}" if status < 0 else f"with exit status {status}"
        if self._stop_requests:
            return f"the engine was ended {how}" if status < 0 else f"the engine was asked to end and did so {how}"
        # Never quote the log: it may hold a prompt, and the reason goes into the journal.
        return f"the engine ended {how}: see {self._folder / keeper_files.LOG_FILE}"

    def _write_state(self, status: keeper_files.Status, **changes: object) -> None:
        self._state = replace(self._state, status=status, **changes)  # type: ignore[arg-type]  # fields of the state
        try:
            keeper_files.write_state(self._folder, self._state)
        except OSError:
            # The disk is full. An engine that nobody could find again must not run; a stopping one ends by itself.
            if status in ("starting", "running"):
                raise

    def _report_start(self, **fields: str) -> None:
        """Report to the waker, which may have gone."""
        with contextlib.suppress(OSError):
            os.write(self._report, json.dumps(fields).encode())
        os.close(self._report)


def _die_with(keeper: int) -> None:
    """Make Linux end this process when its keeper is killed. Called in the engine's process, before its program."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)


def _find_program(program: str, path: str) -> str:
    """The program's file; if there is none, its name, so that starting it fails with that error."""
    if os.sep in program:
        return program
    for folder in path.split(os.pathsep):
        file = Path(folder or ".") / program
        if file.is_file() and os.access(file, os.X_OK):
            return str(file)
    return program


def _not_started(program: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no program {program!r}: install it, or fix the machine's command"
    return f"the program {program!r} cannot be started: {error.strerror}: fix it, or the machine's command"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--generation", type=int, required=True)
    parser.add_argument("--report", type=int, required=True)
    parser.add_argument("--lifeline", type=int)
    parser.add_argument("--grace", type=float, default=GRACE_SECONDS)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    if os.fork():
        os._exit(0)  # from here on an orphan, so that no waker has to reap us
    os.setsid()
    for descriptor in (arguments.report, arguments.lifeline):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)
    deadline = time.monotonic() + LOCK_SECONDS
    while (lock := keeper_files.take_lock(arguments.folder)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if lock is None:
        return  # another keeper was quicker; the waker reads no report, and observes
    state = KeeperState(
        status="starting",
        generation=arguments.generation,
        keeper=os.getpid(),
        keeper_started=keeper_files.process_start(os.getpid()) or "",
        started_at=time.time(),
    )
    Keeper(arguments.folder, state, arguments.report, arguments.lifeline, arguments.grace).run(arguments.command)


if __name__ == "__main__":
    main()
