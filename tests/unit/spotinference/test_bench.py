"""What a bench makes of its shots, and how it reads a stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config.load import parse
from shared.errors import Misconfigured
from shared.messages.waker import MachineRecord, MachineState
from spotinference.bench import streamed_request
from spotinference.bench.load import make_prompt
from spotinference.bench.statistics import added_latency, seconds_per_token, summarize, summarize_side
from spotinference.bench.streamed_request import EventStream, TimedRequest
from spotinference.bench.targets import ready_machines, select_model

TEXT = 'data: {"a":1}\r\n\r\n: waking tier=x\n\ndata:{"b":"ä"}\n\ndata: [DONE]\n\n'.encode()


@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=8))
def test_events_are_the_same_in_whatever_pieces_they_come(cuts: list[int]) -> None:
    events, ends = EventStream(), [0, *sorted(cuts), len(TEXT)]
    result = [data for i in range(len(ends) - 1) for data in events.feed(TEXT[ends[i] : ends[i + 1]])]
    assert result == [b'{"a":1}', '{"b":"ä"}'.encode(), b"[DONE]"]


def test_a_line_without_an_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_request, "MAX_LINE_BYTES", 10)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        list(EventStream().feed(b"data: 123456"))


def shot(sent: float, first: float, ended: float, tokens: int = 11) -> TimedRequest:
    return TimedRequest(sent=sent, first=first, ended=ended, prompt_tokens=5, completion_tokens=tokens)


def test_a_side_is_ratios_of_sums_over_its_rounds() -> None:
    failed = TimedRequest(sent=100.0, ended=104.0, fault="it is full")
    result = summarize_side([[shot(0, 1, 2), shot(1, 2, 4)], [shot(100, 103, 103.5), failed]], cpu_seconds=2.0)
    assert (result.requests, result.failed, result.seconds) == (4, 1, 8.0)
    assert (result.completion_tokens, result.prompt_tokens, result.rate) == (33, 15, 33 / 8)
    assert result.client_cpu == 0.25
    assert result.ttft is not None
    assert result.tpot is not None
    assert result.stream_rate is not None
    assert (result.ttft.p50, result.ttft.p99, result.ttft.count) == (1.0, 3.0, 3)
    assert result.tpot.p50 == pytest.approx(0.1)
    assert result.stream_rate.p50 == pytest.approx(10)
    assert result.stream_rate.mean == pytest.approx(35 / 3)


def test_a_side_on_which_all_failed_has_no_spreads() -> None:
    result = summarize_side([[TimedRequest(sent=0.0, ended=1.0, fault="no")]], cpu_seconds=0.0)
    assert (result.rate, result.ttft, result.tpot, result.stream_rate) == (0.0, None, None, None)


@pytest.mark.parametrize("tokens", [0, 1])
def test_one_token_has_no_pace(tokens: int) -> None:
    assert seconds_per_token(shot(0, 1, 2, tokens)) is None


def test_what_was_added_is_a_difference_of_pairs_and_may_be_negative() -> None:
    failed = TimedRequest(sent=0.0, ended=1.0, fault="no")
    pairs = [(shot(0, 3, 4), shot(10, 11, 12)), (shot(0, 1, 4), shot(10, 12, 13)), (failed, shot(0, 1, 2))]
    result = added_latency(pairs)
    assert result is not None
    assert (result.count, result.p50, result.mean) == (2, -1.0, 0.5)
    assert added_latency([(failed, failed)]) is None


@given(values=st.lists(st.floats(0, 1e6), min_size=1))
def test_quantiles_are_values_that_there_were(values: list[float]) -> None:
    result = summarize(values)
    assert result is not None
    assert {result.p50, result.p95, result.p99} <= set(values)
    assert result.p50 <= result.p95 <= result.p99


def test_prompt_has_about_the_requested_length_and_a_unique_beginning() -> None:
    prompts = [make_prompt(100) for _ in range(20)]
    assert len({prompt.split()[0] for prompt in prompts}) == 20
    assert {len(prompt.split()) for prompt in prompts} == {93}


CONFIG = """
[[tier]]
name = "a"
provider = "static"
[[tier]]
name = "b"
provider = "static"
[[model]]
name = "m"
lineup = ["b", "a"]
"""


def record(machine: str, tier: str, state: MachineState = "ready", endpoint: str | None = "http://x") -> MachineRecord:
    return MachineRecord(
        machine=machine,
        tier=tier,
        state=state,
        provider_state="",
        endpoint=endpoint,
        generation=1,
        since=0.0,
        reason="",
    )


def test_ready_machines_are_in_the_order_of_the_lineup() -> None:
    model = select_model(parse(CONFIG, "c"), None)
    records = [
        record("1", "a"),
        record("3", "b"),
        record("2", "b"),
        record("0", "b", "draining"),
        record("4", "other"),
        record("5", "b", endpoint=None),
    ]
    assert [r.machine for r in ready_machines(records, model)] == ["2", "3", "1"]


def test_of_several_models_one_has_to_be_named() -> None:
    config = parse(CONFIG + '[[model]]\nname = "n"\nlineup = ["a"]\n', "c")
    assert select_model(config, "n").name == "n"
    with pytest.raises(Misconfigured, match="--model is required: the configured models are m, n"):
        select_model(config, None)
    with pytest.raises(Misconfigured, match="no \\[\\[model\\]\\] is named 'o'; the configured models are m, n"):
        select_model(config, "o")
