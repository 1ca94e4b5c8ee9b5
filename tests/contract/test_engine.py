"""What the books rely on in the small engine: its counters are the sums of `usage`, and it ends on SIGTERM."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.meter.adapters.scraper import MetricsScraper
from services.meter.core.engine_counters import EngineCounters, parse
from tests.kit.engine import Engine
from tests.kit.ports import free_port
from tests.kit.waiting import PATIENCE_SECONDS

MESSAGES = [{"role": "user", "content": "how many people look at the water"}]


async def _post(engine: Engine, path: str, **body: Any) -> list[dict[str, Any]]:
    """The answer's chunks; one where it is not streamed."""
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.post(engine.base_url + path, json={"model": "tiny", "max_tokens": 20, **body}) as answer,
    ):
        text = await answer.text()
    if not body.get("stream"):
        return [json.loads(text)]
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


async def test_counters_are_the_sums_of_usage_with_and_without_the_prompt_cache(engine: Engine) -> None:
    stream: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    chunks = [
        *await _post(engine, "/v1/chat/completions", messages=MESSAGES),
        *await _post(engine, "/v1/chat/completions", messages=MESSAGES),
        *await _post(engine, "/v1/chat/completions", messages=MESSAGES, **stream),
        *await _post(engine, "/v1/completions", prompt="the water"),
        *await _post(engine, "/v1/completions", prompt="the water", **stream),
    ]
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert len(usages) == 5
    assert sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages) > 0
    assert engine.counters() == EngineCounters(
        prompt_tokens=sum(usage["prompt_tokens"] for usage in usages),
        completion_tokens=sum(usage["completion_tokens"] for usage in usages),
        running=0,
        rounding=0,
    )


async def test_metrics_name_the_engine_process(engine: Engine, tiny_model: Path, tmp_path: Path) -> None:
    scraper, other = MetricsScraper(PATIENCE_SECONDS), Engine(tiny_model, tmp_path / "other.log")
    try:
        processes = [(await scraper.read(each.base_url)).process for each in (engine, engine, other)]
    finally:
        other.stop()
        await scraper.close()
    assert processes[0] == processes[1] is not None
    assert processes[2] not in (None, processes[0])


async def test_a_stream_that_was_left_is_counted_as_far_as_it_was_generated(slow_engine: Engine) -> None:
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        body = {"messages": MESSAGES, "max_tokens": 1500, "stream": True}
        async with session.post(f"{slow_engine.base_url}/v1/chat/completions", json=body) as answer:
            for _ in range(10):
                await answer.content.readline()
    assert 3 <= slow_engine.counters().completion_tokens < 1500


def test_a_port_in_use_is_reported_before_the_model_is_loaded(tiny_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = _run("--port", str(port), "--model", str(tiny_model))
    assert ended.returncode == 1
    assert f"--port {port}: " in ended.stderr
    assert "in use" in ended.stderr


def test_a_missing_model_is_reported() -> None:
    ended = _run("--port", "1", "--model", "/nowhere.gguf")
    assert (ended.returncode, ended.stderr) == (1, "spotinference engine: --model: no such file: /nowhere.gguf\n")


def test_a_file_that_is_no_model_is_reported() -> None:
    ended = _run("--port", str(free_port()), "--model", __file__)
    assert ended.returncode == 1
    assert "is the file a GGUF model" in ended.stderr


def test_sigterm_ends_it_with_0(engine: Engine) -> None:
    engine.stop()
    assert engine.returncode == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            (
                "# TYPE llamacpp:prompt_tokens_total counter\n"
                "llamacpp:prompt_tokens_total 1.10131e+06\nllamacpp:prompt_tokens_cached_total 7\n"
                "llamacpp:tokens_predicted_total 999999\nllamacpp:requests_processing 2\nllamacpp:requests_deferred 1\n"
            ),
            EngineCounters(prompt_tokens=1_101_317, completion_tokens=999_999, running=3, rounding=5),
        ),
        (
            (
                'vllm:prompt_tokens_total{engine="0",model_name="a b"} 1.234567e+06\n'
                'vllm:prompt_tokens_created{engine="0",model_name="a b"} 1.7e+09\n'
                'vllm:generation_tokens_total{engine="0",model_name="a b"} 17.0\n'
                'vllm:generation_tokens_total{engine="1",model_name="a b"} 3.0\n'
                'vllm:num_requests_running{engine="0",model_name="a b"} 0.0\n'
            ),
            EngineCounters(prompt_tokens=1_234_567, completion_tokens=20, running=0, rounding=0, process="1.7e+09"),
        ),
    ],
)
def test_parse(text: str, expected: EngineCounters) -> None:
    assert parse(text) == expected


def test_parse_rejects_other_metrics() -> None:
    with pytest.raises(ValueError, match="neither llama"):
        parse("python_gc_objects_collected_total 3\n")


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "spotinference.engine", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
