"""Parsing an engine's metrics: any text gives counters or a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.meter.core.engine_counters import parse

VLLM = """# HELP vllm:prompt_tokens_total x
vllm:prompt_tokens_total{engine="0",model_name="a b"} 12.0
vllm:prompt_tokens_total{engine="1",model_name="a b"} 1.5e+01
vllm:generation_tokens_total{engine="0"} 7.0
vllm:request_success_total{finished_reason="stop"} 3.0
vllm:request_success_total{finished_reason="abort"} 1.0
vllm:num_requests_waiting{engine="0"} 2.0
"""


def test_vllm_counters_of_several_engines_are_summed() -> None:
    counters = parse(VLLM)
    assert (counters.prompt_tokens, counters.completion_tokens, counters.requests, counters.running) == (27, 7, 4, 2)
    assert counters.rounding == 0


@pytest.mark.parametrize(
    ("more", "header", "process"),
    [
        ("", None, None),
        ("process_start_time_seconds 1.79539e+09\n", None, "1.79539e+09"),
        ('vllm:prompt_tokens_created{engine="0"} 17.5\n', None, "17.5"),
        ("vllm:prompt_tokens_created 17.5\nprocess_start_time_seconds 16.25\n", None, "16.25"),
        ("process_start_time_seconds 16.25\n", "22715509041", "22715509041"),
        ("process_start_time_seconds 16.25\n", "yesterday", "16.25"),
        ("process_start_time_seconds \0\n", "1" * 41, None),
    ],
)
def test_process_is_parsed_from_header_or_metrics(more: str, header: str | None, process: str | None) -> None:
    assert parse(VLLM + more, header).process == process


def test_requests_are_none_when_the_engine_does_not_count_them() -> None:
    assert parse("llamacpp:prompt_tokens_total 1\nllamacpp:tokens_predicted_total 2\n").requests is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "1e400", "9007199254740992", "many"])
def test_invalid_counter_value_is_rejected_with_its_name(value: str) -> None:
    with pytest.raises(ValueError, match="vllm:generation_tokens_total: expected a count"):
        parse(f"vllm:prompt_tokens_total 1\nvllm:generation_tokens_total {value}\n")


@pytest.mark.parametrize(
    "text", ["", "<html><body>vllm:prompt_tokens_total 1</body></html>", "vllm:prompt_tokens_total 1"]
)
def test_page_without_engine_counters_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        parse(text)


@given(st.text(alphabet=st.sampled_from('vllm:prompt_tokens_total{}="\n 0123456789.eE+-NaInf'), max_size=200))
def test_parse_raises_only_value_error_for_any_text(text: str) -> None:
    try:
        parse(text + "\nvllm:prompt_tokens_total 1\nvllm:generation_tokens_total 1\n")
    except ValueError:
        return
