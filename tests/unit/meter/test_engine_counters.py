"""An engine's text of metrics: whatever it says, counters come out, or a reason."""

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


def test_vllms_engines_are_added() -> None:
    found = parse(VLLM)
    assert (found.prompt_tokens, found.completion_tokens, found.requests, found.running) == (27, 7, 4, 2)
    assert found.rounding == 0


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
def test_which_process_it_is(more: str, header: str | None, process: str | None) -> None:
    assert parse(VLLM + more, header).process == process


def test_an_engine_that_counts_no_requests_says_none() -> None:
    assert parse("llamacpp:prompt_tokens_total 1\nllamacpp:tokens_predicted_total 2\n").requests is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "1e400", "9007199254740992", "many"])
def test_a_counter_that_is_no_count_is_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match="vllm:generation_tokens_total: expected a count"):
        parse(f"vllm:prompt_tokens_total 1\nvllm:generation_tokens_total {value}\n")


@pytest.mark.parametrize(
    "text", ["", "<html><body>vllm:prompt_tokens_total 1</body></html>", "vllm:prompt_tokens_total 1"]
)
def test_what_is_no_engines_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        parse(text)


@given(st.text(alphabet=st.sampled_from('vllm:prompt_tokens_total{}="\n 0123456789.eE+-NaInf'), max_size=200))
def test_whatever_the_text_nothing_but_a_value_error_comes_of_it(text: str) -> None:
    try:
        parse(text + "\nvllm:prompt_tokens_total 1\nvllm:generation_tokens_total 1\n")
    except ValueError:
        return
