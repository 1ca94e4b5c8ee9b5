"""The tokens of a stream so far, from the usage of each of its choices."""

from dataclasses import dataclass, field
from typing import NamedTuple

from services.gateway.core.chunk import Choice, Chunk
from services.gateway.core.usage import MAX_TOKENS, NO_USAGE, ReportedUsage, TokenCount, count, read_usage

MAX_CHOICES = 16_384
"""That are told apart: more than any engine runs at once. Those beyond count as one."""


@dataclass(slots=True)
class _Progress:
    """One choice."""

    index: int
    reported: ReportedUsage = NO_USAGE
    deltas: int = 0
    finished: bool = False


class _PromptReport(NamedTuple):
    """What a choice reported of its prompt."""

    tokens: int
    cached: int
    by: int
    """The choice's index."""


_NO_REPORT = _PromptReport(0, 0, -1)


@dataclass(slots=True)
class RunningUsage:
    """The usage beside one choice is that choice's own, as vLLM has it; beside none, or several, it is the request's.

    The sums go along with what is added, for `count` is asked for every second.
    """

    choices: int
    """Those of each prompt (`n`)."""
    prompts_apart: bool
    """Choices `n` apart are of different prompts; otherwise there is one prompt."""
    _progress: dict[int, _Progress] = field(default_factory=dict)
    _prompts: dict[int, _PromptReport] = field(default_factory=dict)
    """Of each the most that one of its choices reported."""
    _prompt: int = 0
    _cached: int = 0
    _completion: int = 0
    _reasoning: int = 0
    _reporting: int = 0
    """The choices that reported their completion."""
    _deltas: int = 0
    """Of the choices that did not."""
    _finished: int = 0
    _total: ReportedUsage = NO_USAGE

    @property
    def several(self) -> bool:
        """Whether more than one choice has come."""
        return len(self._progress) > 1

    @property
    def count(self) -> TokenCount:
        """The sums; where a choice's own usage is missing, its deltas stand in for it."""
        own = ReportedUsage(
            _bounded(self._prompt) if self._prompts else None,
            _bounded(self._cached),
            _bounded(self._completion) if self._reporting and not self._deltas else None,
            _bounded(self._reasoning),
        )
        return count(_over(self._total, own), _bounded(self._completion + self._deltas))

    @property
    def finished(self) -> bool:
        """Whether every choice has."""
        return self.choices <= len(self._progress) == self._finished

    def add(self, chunk: Chunk) -> int | None:
        """Add what a chunk says. Returns the index of its only choice if its usage is known and it goes on."""
        reported = read_usage(chunk.usage)
        if len(chunk.choices) != 1:
            for choice in chunk.choices:
                self._add_choice(choice, NO_USAGE)
            self._total = _over(reported, self._total)
            return None
        progress = self._add_choice(chunk.choices[0], reported)
        known = reported.prompt is not None and reported.completion is not None and chunk.error is None
        return progress.index if known and not progress.finished and progress.index < MAX_CHOICES else None

    def add_named(self, chunk: Chunk) -> None:
        """Add what an event of `/v1/responses` says."""
        self._total = _over(read_usage(chunk.response_usage), self._total)
        self._deltas += chunk.name.endswith(".delta")

    def report_completion(self, index: int, tokens: int | None) -> None:
        """A choice of which a chunk has been added before has come to so many tokens, if that is a number."""
        self._report(self._progress[index], ReportedUsage(completion=tokens))

    def _add_choice(self, choice: Choice, reported: ReportedUsage) -> _Progress:
        index = min(choice.number, MAX_CHOICES)
        progress = self._progress.get(index)
        if progress is None:
            progress = self._progress[index] = _Progress(index)
        self._report(progress, reported)
        if progress.reported.completion is None and choice.has_content:
            progress.deltas += 1
            self._deltas += 1
        if choice.finished and not progress.finished:
            progress.finished = True
            self._finished += 1
        return progress

    def _report(self, progress: _Progress, reported: ReportedUsage) -> None:
        if reported is NO_USAGE:
            return
        before = progress.reported
        now = progress.reported = _over(reported, before)
        if now.completion is not None:
            if before.completion is None:
                self._reporting += 1
                self._deltas -= progress.deltas
            self._completion += now.completion - (before.completion or 0)
        self._reasoning += (now.reasoning or 0) - (before.reasoning or 0)
        if now.prompt is not None:
            prompt = progress.index // self.choices if self.prompts_apart else 0
            new = _PromptReport(now.prompt, now.cached or 0, progress.index)
            most = self._prompts.get(prompt, _NO_REPORT)
            if most.by == new.by or new > most:
                self._prompts[prompt] = new
                self._prompt += new.tokens - most.tokens
                self._cached += new.cached - most.cached


def _over(new: ReportedUsage, old: ReportedUsage) -> ReportedUsage:
    """Number by number: one that is not told does not take back what was."""
    if new is NO_USAGE or old is NO_USAGE:
        return old if new is NO_USAGE else new
    return ReportedUsage(*(before if now is None else now for now, before in zip(new, old, strict=True)))


def _bounded(tokens: int) -> int:
    return min(tokens, MAX_TOKENS - 1)
