"""The sums that go along with a stream are those of its choices, and cost the same however many there are."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.chunk import read_chunk
from services.gateway.core.running_usage import RunningUsage
from services.gateway.core.usage import TokenCount

CHOICES_PER_PROMPT = 2
STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.booleans(), st.none() | st.integers(0, 9), st.booleans()), min_size=1, max_size=30
)


def add_chunk(running: RunningUsage, index: int, *, text: str = "", finished: bool = False, usage: Any = None) -> None:
    choice = {"index": index, "text": text, "finish_reason": "stop" if finished else None}
    chunk = read_chunk(json.dumps({"choices": [choice], "usage": usage}).encode())
    assert chunk is not None
    running.add(chunk)


@given(STEPS)
def test_the_sums_are_those_of_the_choices(steps: list[tuple[int, bool, int | None, bool]]) -> None:
    running = RunningUsage(CHOICES_PER_PROMPT, prompts_apart=True)
    completions: dict[int, int] = {}
    deltas: dict[int, int] = {}
    finished: set[int] = set()
    for index, speaks, completion, ends in steps:
        usage = None if completion is None else {"prompt_tokens": 7, "completion_tokens": completion}
        add_chunk(running, index, text="x" * speaks, finished=ends, usage=usage)
        deltas[index] = deltas.get(index, 0) + speaks
        if completion is not None:
            completions[index] = completion
        if ends:
            finished.add(index)
    untold = sum(number for index, number in deltas.items() if index not in completions)
    prompts = {index // CHOICES_PER_PROMPT for index in completions}
    reported = sum(completions.values())
    assert (running.count.prompt, running.count.completion) == (7 * len(prompts), reported + untold)
    assert running.count.basis == ("counted" if untold else "engine" if completions else "none")
    assert running.finished == (len(deltas) >= CHOICES_PER_PROMPT and finished == set(deltas))


def test_reading_the_count_does_not_iterate_choices() -> None:
    running = RunningUsage(1, prompts_apart=True)
    for index in range(3):
        add_chunk(running, index, usage={"prompt_tokens": 7, "completion_tokens": index})
    running._progress.clear()
    assert running.count == TokenCount(prompt=21, completion=3, basis="engine")


def test_a_choice_may_correct_its_prompt_tokens() -> None:
    running = RunningUsage(1, prompts_apart=True)
    for prompt in (900, 7):
        add_chunk(running, 0, usage={"prompt_tokens": prompt, "completion_tokens": 1})
    assert running.count.prompt == 7
