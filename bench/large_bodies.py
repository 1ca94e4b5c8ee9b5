"""How long the gateway keeps other work waiting while it parses the largest bodies: `python -m bench.large_bodies`.

For each shape of 30 MB, the longest step of CPU in the better of three tries. A step has less than 50 ms on the machine
of the published figures, which skips one string of 32 MB in 7.9 ms; the bound is scaled by that.
"""

import sys
import time
from collections.abc import Callable, Iterator

import msgspec

from services.gateway.core.errors import ApiError
from services.gateway.core.request_body import MAX_MEMBERS, ParsedRequest, parse_in_steps

SIZE = 30 * 1024 * 1024
HEAD = b'{"model":"m","stream":true,"stream_options":{"include_usage":true},'
MOST_SECONDS, SKIP_SECONDS = 0.050, 0.0079
TRIES = 3


def of_size(start: bytes, unit: bytes, end: bytes) -> bytes:
    return HEAD + start + unit * ((SIZE - len(HEAD) - len(start) - len(end)) // len(unit)) + end


ACCEPTED: dict[str, Callable[[], bytes]] = {
    "one image": lambda: of_size(b'"x":"', b"QUJD", b'"}'),
    "an escaped letter": lambda: of_size(b'"x":"\\u0061', b"QUJD", b'"}'),
    "escapes alone": lambda: of_size(b'"x":"', b"\\u00e9", b'"}'),
    "another alphabet": lambda: of_size(b'"x":"', "中".encode(), b'"}'),
    "numbers": lambda: of_size(b'"x":[', b"1234567, ", b"1]}"),
    "members called model": lambda: of_size(b'"x":[', b'{"model": "n"},  ', b"1]}"),
}
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "objects": (lambda: of_size(b'"x":[', b"{},", b"1]}"), "commas and opening brackets"),
    "digits": (lambda: of_size(b'"x":[', b"1,", b"1]}"), "commas and opening brackets"),
    "members": (lambda: of_size(b"", b'"abcdefg":1,', b'"x":1}'), f"more than {MAX_MEMBERS} fields"),
    "models deep in": (lambda: of_size(b'"x":[', b'{"model": 1},  ', b'1],"\\u006dodel":"n"}'), "occurs twice"),
    "depth": (lambda: of_size(b'"y":"', b"QUJD", b'","x":' + b"[" * 100_000), "nested too deeply"),
    "no end": (lambda: of_size(b'"x":"', b"QUJD", b""), "truncated"),
    "no UTF-8": (lambda: of_size(b'"x":"', b"QUJD", b'\xff"}'), "invalid start byte"),
    "a long name": (lambda: of_size(b'"', b"QUJD", b'":1}'), "a field name of more than"),
    "blanks": (lambda: of_size(b"", b" ", b'"x":1}'), "whitespace"),
}
"""Each with words of its refusal."""


def steps_of(body: bytes) -> tuple[list[float], ParsedRequest | ApiError]:
    """Return the CPU seconds of each step, and what came of them."""
    steps: Iterator[ParsedRequest | None] = parse_in_steps(body)
    seconds: list[float] = []
    while True:
        begun = time.thread_time()
        try:
            parsed = next(steps)
        except ApiError as error:
            return [*seconds, time.thread_time() - begun], error
        seconds.append(time.thread_time() - begun)
        if parsed is not None:
            return seconds, parsed


def seconds_to_skip_a_string() -> float:
    body = b'"' + b"QUJD" * (8 * 1024 * 1024) + b'"'
    decoder = msgspec.json.Decoder(msgspec.Raw)
    best = 1.0
    for _ in range(TRIES):
        begun = time.thread_time()
        decoder.decode(body)
        best = min(best, time.thread_time() - begun)
    return best


def main() -> int:
    """Print a line per shape. 1 if a step took longer than it may."""
    most = MOST_SECONDS * seconds_to_skip_a_string() / SKIP_SECONDS
    late = 0
    for name, make in (ACCEPTED | {name: make for name, (make, _) in REFUSED.items()}).items():
        body = make()
        tries = [steps_of(body)[0] for _ in range(TRIES)]
        longest = min(map(max, tries))
        late += longest > most
        print(f"{name:22}{len(tries[0]):3} steps, the longest {1000 * longest:5.1f} ms of {1000 * most:.1f}")
    return int(late > 0)


if __name__ == "__main__":
    sys.exit(main())
