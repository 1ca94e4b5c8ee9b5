"""The small engine of the demo and the tests: llama.cpp's own HTTP server on the CPU, a process like any engine.

Run it with `python -m spotinference.engine --port 8000 [--model FILE.gguf] [--name NAME]`. It speaks OpenAI's API like
vLLM, with these differences (xllamacpp 2026.10.11549):

- `stream_options.continuous_usage_stats` is accepted without effect: usage is sent once. Streamed chat: in a chunk of
  its own with empty `choices` after the one with the finish reason, and only with `include_usage`. Streamed
  completions: in the chunk with the finish reason, whether requested or not. Not streamed: in the body.
- The first chat chunk has `content: null`, the finish reason comes with an empty delta, errors have no `param`.
- The model name in a request is ignored.
- `usage.prompt_tokens` includes cached tokens, which `prompt_tokens_details.cached_tokens` counts. The counters of
  `/metrics` are disjoint: `prompt_tokens_total` + `prompt_tokens_cached_total` is the sum of `usage.prompt_tokens`, and
  `tokens_predicted_total` that of `usage.completion_tokens`, exactly, for requests with one choice whose client stayed.
- With `n` > 1 or several prompts `usage` is that of one choice alone, repeated per choice where it is streamed; the
  counters have them all.
- Prompt tokens are counted once they are read, completion tokens when the request ends. If the client of a stream
  disconnects, all tokens count that were generated until the engine noticed, more than were delivered; a request
  without a stream mostly runs to its end.
- From a million on, a counter is printed with six digits; `EngineCounters.rounding` is the possible error.
- While it loads (0.6 s for the demo's model) it answers 503 to everything, `/health` included, and SIGTERM takes effect
  only afterwards.
"""

import argparse
import importlib
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from shared.errors import Misconfigured
from spotinference.engine import model_file
from spotinference.engine.openmp import require_openmp


def serve(*, model: Path, served_name: str, host: str, port: int, context: int, parallel: int, threads: int) -> None:
    """Load the model and serve until SIGTERM or SIGINT ends the process with status 0. `context`: tokens per request.

    Raises:
        Misconfigured: the file or the port cannot be used.
    """
    xllamacpp = load_library()
    if not model.is_file():
        raise Misconfigured(f"--model: no such file: {model}")
    _check_port(host, port)
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {served_name}
    params.n_parallel = parallel
    params.n_ctx = context * parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.hostnames = [host]
    params.port = port
    params.endpoint_metrics = True
    params.use_jinja = True
    params.offline = True
    params.cache_ram_mib = 0  # default is up to 8 GiB; the prompt cache of each slot stays
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise Misconfigured(
            f"--model {model} on {host}:{port}: {error}: is the file a GGUF model, and is the port free?"
        ) from error
    print(f"ready {server.listening_address}", flush=True)
    while True:
        time.sleep(0.5)  # not signal.pause: a signal just before it would be handled only with the next one


def load_library() -> Any:
    """Import the module `xllamacpp`. Raises `Misconfigured` with the reason if this host cannot load it."""
    require_openmp()
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise Misconfigured(f"the small engine's library `xllamacpp` cannot be loaded: {error}") from error


def main() -> None:
    """Run the engine from the command line."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    parser = argparse.ArgumentParser(prog="python -m spotinference.engine", description="The small CPU engine.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--port", type=int)
    what.add_argument("--check", action="store_true", help="only check whether this host can load the engine")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--model", type=Path, help=f"a GGUF file; {model_file.NAME} is downloaded if absent")
    parser.add_argument("--name", default=model_file.NAME, help="name of the model in responses")
    parser.add_argument("--context", type=int, default=2048, help="tokens per request, prompt and completion")
    parser.add_argument("--parallel", type=int, default=4, help="concurrent requests; others wait")
    # One thread per core is 5 to 8 times slower: the barriers between them spin against the HTTP threads.
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    options = parser.parse_args()
    try:
        if options.check:
            load_library()
            return
        serve(
            model=options.model or model_file.model_file(),
            served_name=options.name,
            host=options.host,
            port=options.port,
            context=options.context,
            parallel=options.parallel,
            threads=options.threads,
        )
    except Misconfigured as error:
        sys.exit(f"spotinference engine: {error}")


def _check_port(host: str, port: int) -> None:
    """Check the port before loading the weights: the server itself would not say why it failed."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise Misconfigured(f"--host {host} --port {port}: {error}") from error


def _end(_number: int, _frame: object) -> None:
    # Not sys.exit, which would wait for the server's own threads.
    os._exit(0)


if __name__ == "__main__":
    main()
