"""The tokens of a stream so far, from the usage of each of its choices."""

from services.gateway.core.chunk import Choice, Chunk
from services.gateway.core.usage import MAX_TOKENS, UNREPORTED, Count, Reported, count, read_usage

MAX_CHOICES = 16_384
"""That are told apart: more than any engine runs at once. Those beyond count as one."""


class _Progress:
    """One choice."""

    __slots__ = ("deltas", "finished", "index", "reported")

    def __init__(self, index: int) -> None:
        self.index = index
        self.reported = UNREPORTED
        self.deltas = 0
        self.finished = False


class RunningUsage:
    """The usage beside one choice is that choice's own, as vLLM has it; beside none, or several, it is the request's.

    Arguments:
        choices: Those of each prompt (`n`).
        prompts_apart: Choices `n` apart are of different prompts; otherwise there is one prompt.
    """

    __slots__ = ("_choices", "_named_deltas", "_progress", "_prompts_apart", "_total")

    def __init__(self, choices: int, *, prompts_apart: bool) -> None:
        self._choices = choices
        self._prompts_apart = prompts_apart
        self._progress: dict[int, _Progress] = {}
        self._total = UNREPORTED
        self._named_deltas = 0

    @property
    def several(self) -> bool:
        """Whether more than one choice has come."""
        return len(self._progress) > 1

    @property
    def count(self) -> Count:
        """The sums; where a choice's own usage is missing, its deltas stand in for it."""
        prompts: dict[int, tuple[int, int]] = {}
        completion = reasoning = 0
        deltas, told = self._named_deltas, False
        for index, each in self._progress.items():
            reported = each.reported
            if reported.prompt is not None:
                of = index // self._choices if self._prompts_apart else 0
                prompts[of] = max(prompts.get(of, (0, 0)), (reported.prompt, reported.cached or 0))
            if reported.completion is None:
                deltas += each.deltas
            else:
                told = True
                completion += reported.completion
            reasoning += reported.reasoning or 0
        own = Reported(
            _bounded(sum(prompt for prompt, _ in prompts.values())) if prompts else None,
            _bounded(sum(cached for _, cached in prompts.values())),
            _bounded(completion) if told and not deltas else None,
            _bounded(reasoning),
        )
        return count(_over(self._total, own), _bounded(completion + deltas))

    @property
    def finished(self) -> bool:
        """Whether every choice has."""
        return len(self._progress) >= self._choices and all(each.finished for each in self._progress.values())

    def add(self, chunk: Chunk) -> int | None:
        """Add what a chunk says. Returns the index of its only choice if its usage is known and it goes on."""
        usage = chunk.usage
        reported = read_usage(usage) if usage else UNREPORTED
        if len(chunk.choices) != 1:
            for choice in chunk.choices:
                self._add_choice(choice)
            self._total = _over(reported, self._total)
            return None
        progress = self._add_choice(chunk.choices[0])
        progress.reported = _over(reported, progress.reported)
        known = reported.prompt is not None and reported.completion is not None and chunk.error is None
        return progress.index if known and not progress.finished and progress.index < MAX_CHOICES else None

    def add_named(self, chunk: Chunk) -> None:
        """Add what an event of `/v1/responses` says."""
        self._total = _over(read_usage(chunk.response_usage), self._total)
        self._named_deltas += chunk.name.endswith(".delta")

    def report_completion(self, index: int, tokens: int | None) -> None:
        """A choice of which a chunk has been added before has come to so many tokens, if that is a number."""
        progress = self._progress[index]
        progress.reported = _over(Reported(completion=tokens), progress.reported)

    def _add_choice(self, choice: Choice) -> _Progress:
        index = min(choice.number, MAX_CHOICES)
        progress = self._progress.get(index)
        if progress is None:
            progress = self._progress[index] = _Progress(index)
        progress.deltas += choice.says_something
        progress.finished = progress.finished or choice.finished
        return progress


def _over(new: Reported, old: Reported) -> Reported:
    """Number by number: one that is not told does not take back what was."""
    if new is UNREPORTED:
        return old
    return Reported(*(before if now is None else now for now, before in zip(new, old, strict=True)))


def _bounded(tokens: int) -> int:
    return min(tokens, MAX_TOKENS - 1)
