"""The tokens of a stream so far, summed over the usage of its choices."""

from dataclasses import dataclass, field
from typing import NamedTuple

from services.gateway.core.chunk import Choice, Chunk
from services.gateway.core.usage import MAX_TOKENS, NO_USAGE, ReportedUsage, TokenCount, count_tokens, read_usage

MAX_CHOICES = 16_384
"""Choices tracked apart: more than any engine runs at once. Any further ones count as one."""


@dataclass(slots=True)
class _Progress:
    """One choice."""

    index: int
    reported: ReportedUsage = NO_USAGE
    deltas: int = 0
    finished: bool = False


class _PromptReport(NamedTuple):
    """The prompt tokens that a choice reported."""

    tokens: int
    cached: int
    by: int
    """The choice's index."""


_NO_REPORT = _PromptReport(0, 0, -1)


@dataclass(slots=True)
class RunningUsage:
    """The usage in a chunk with one choice is that choice's own, as in vLLM; with none or several, it is the request's.

    The sums are kept up to date as chunks are added, since `count` is read every second.
    """

    choices: int
    """Choices per prompt (`n`)."""
    prompts_apart: bool
    """Whether choices `n` apart belong to different prompts; otherwise there is one prompt."""
    _progress: dict[int, _Progress] = field(default_factory=dict)
    _prompts: dict[int, _PromptReport] = field(default_factory=dict)
    """By prompt, the most that one of its choices reported."""
    _prompt: int = 0
    _cached: int = 0
    _completion: int = 0
    _reasoning: int = 0
    _reporting: int = 0
    """How many choices reported their completion tokens."""
    _deltas: int = 0
    """Deltas of the choices that did not."""
    _finished: int = 0
    _total: ReportedUsage = NO_USAGE

    @property
    def several(self) -> bool:
        """Whether more than one choice has appeared."""
        return len(self._progress) > 1

    @property
    def count(self) -> TokenCount:
        """The sums; a choice without usage of its own counts one token per delta."""
        own = ReportedUsage(
            _bounded(self._prompt) if self._prompts else None,
            _bounded(self._cached),
            _bounded(self._completion) if self._reporting and not self._deltas else None,
            _bounded(self._reasoning),
        )
        return count_tokens(_merge(self._total, own), _bounded(self._completion + self._deltas))

    @property
    def finished(self) -> bool:
        """Whether every choice has finished."""
        return self.choices <= len(self._progress) == self._finished

    def add(self, chunk: Chunk) -> int | None:
        """Add a chunk; return the index of its only choice if its usage is known and the choice continues."""
        reported = read_usage(chunk.usage)
        if len(chunk.choices) != 1:
            for choice in chunk.choices:
                self._add_choice(choice, NO_USAGE)
            self._total = _merge(reported, self._total)
            return None
        progress = self._add_choice(chunk.choices[0], reported)
        known = reported.prompt is not None and reported.completion is not None and chunk.error is None
        return progress.index if known and not progress.finished and progress.index < MAX_CHOICES else None

    def add_named(self, chunk: Chunk) -> None:
        """Add an event of `/v1/responses`."""
        self._total = _merge(read_usage(chunk.response_usage), self._total)
        self._deltas += chunk.name.endswith(".delta")

    def report_completion(self, index: int, tokens: int | None) -> None:
        """Set the completion tokens of a choice that a chunk was added for before; None changes nothing."""
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
        now = progress.reported = _merge(reported, before)
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


def _merge(new: ReportedUsage, old: ReportedUsage) -> ReportedUsage:
    """Merge number by number: a missing new number keeps the old one."""
    if new is NO_USAGE or old is NO_USAGE:
        return old if new is NO_USAGE else new
    return ReportedUsage(*(before if now is None else now for now, before in zip(new, old, strict=True)))


def _bounded(tokens: int) -> int:
    return min(tokens, MAX_TOKENS - 1)
