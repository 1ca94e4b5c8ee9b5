"""A short run of the benchmark on the real processes: every figure is there, and a wrong answer is seen."""

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest

from bench import shapes
from bench.figures import KINDS, percentile
from bench.gateway import Result

RUN_SECONDS = 90.0


async def test_a_run_tells_every_figure(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    words = ("-m", "bench.gateway", "--seconds", "0.5", "--rounds", "1", "--json", str(told))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(RUN_SECONDS):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    result = msgspec.json.decode(told.read_bytes(), type=Result)
    assert [f.name for f in result.figures] == [kind.name for kind in KINDS] + ["memory after the load"]
    assert all(f.value > 0 for f in result.figures if f.unit in {"µs", "1/s", "MB"})
    assert all(f.low <= f.value <= f.high for f in result.figures)
    gateway = [s for s in result.samples if s.target == "gateway"]
    assert all(s.cpu_ns > 0 and s.requests > 0 for s in gateway)


def test_a_good_answer_is_good() -> None:
    assert shapes.whole_fault(shapes.whole_answer()) is None
    assert shapes.stream_fault(_stream(5), 5) is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ((b'" w3"', b'" w2"'), "doubled"),
        ((b"data: [DONE]", b"data: [DENO]"), "no [DONE]"),
        ((b'"completion_tokens":5', b'"completion_tokens":4'), "one usage"),
    ],
)
def test_a_wrong_stream_is_seen(change: tuple[bytes, bytes], fault: str) -> None:
    found = shapes.stream_fault(_stream(5).replace(*change), 5)
    assert fault in (found or "")


def test_a_stream_with_usage_nobody_asked_for_is_seen() -> None:
    chunks = shapes.stream_chunks(5, include_usage=True, running_usage=True)
    assert "one usage" in (shapes.stream_fault(shapes.stream_head() + b"".join(chunks), 5) or "")


def test_a_whole_answer_of_other_words_is_seen() -> None:
    assert "other text" in (shapes.whole_fault(shapes.whole_answer().replace(b" w7", b" w8")) or "")


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0, 1.0, 2.0, 4.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0, 4.0], 0.95) == 4.0


def _stream(tokens: int) -> bytes:
    return shapes.stream_head() + b"".join(shapes.stream_chunks(tokens, include_usage=True, running_usage=False))
