"""The demo's requests: two that are printed as they stream, and a batch of questions."""

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from spotinference.demo.journal_printer import JournalPrinter
from spotinference.demo.suite import StepPrinter, require
from spotinference.terminal import print_line

MODEL = "smollm2-135m"
SHOWN_TOKENS = 64
ANSWER_TOKENS = 24
"""Short: the demo's CPU generates about 50 tokens a second, and reads many more."""
PROMPT = "Explain what a load balancer does, in two sentences."
HANDBOOK = """\
You answer questions of new operators from this handbook, in one plain sentence.

A tier is a class of machine, such as a pair of H100s. Each machine belongs to one tier and runs one engine. A \
machine that nobody uses for fifteen minutes is drained: it finishes the requests that it has and takes no new \
ones. Then it hibernates, and the provider stops charging for its GPUs; the disk is charged for as long as it \
exists. The next request for one of the tier's models wakes it. Many requests that arrive together cause one \
wake, not many. A request waits for at most ten minutes, and learns every ten seconds how far the wake has \
come. Each key has limits: requests a minute, tokens a minute, requests at once and tokens a month. The daily \
budget closes the gate for new requests when it is spent, and opens it at midnight, in UTC. Every request that \
reached an engine becomes one usage event. The gateway keeps the event on its disk until the ledger has \
confirmed it, so that no event is lost or counted twice. Each day the provider's invoice is divided by the \
tokens that were served. The result is the cost of a million tokens, with idle time, cold starts and disks \
included. A day is estimated until its bill arrives, provisional until the invoice ties, and final afterwards.
"""
QUESTIONS = (
    "What is a tier?",
    "What happens to a machine that nobody uses?",
    "What does the provider charge for while a machine hibernates?",
    "How many wakes do a hundred simultaneous requests cause?",
    "How long does a request wait at most?",
    "Which limits does a key have?",
    "When does the budget gate open again?",
    "What is a usage event?",
    "Why is no usage event lost?",
    "What is divided by what to get the cost of a million tokens?",
    "When is a day's figure final?",
    "What does draining a machine mean?",
)
CONCURRENCY = 2
INDENT = " " * 13


@dataclass
class SentRequests:
    """What the client received. The invoice needs when each response ended and its size in bytes."""

    transfers: list[tuple[float, int]] = field(default_factory=list)
    requests: int = 0
    since: float = field(default_factory=time.time)
    """Before the first request."""

    def add(self, stream: openai.AsyncStream[ChatCompletionChunk]) -> None:
        self.requests += 1
        self.transfers.append((time.time(), stream.response.num_bytes_downloaded))


async def print_stream(
    client: openai.AsyncOpenAI, printer: StepPrinter, journal: JournalPrinter, state: str, sent: SentRequests
) -> None:
    """Send one request and print the answer as it streams."""
    printer.print(f"asking {MODEL}, whose machine is {state}: {PROMPT}")
    sent_at = time.monotonic()
    first: float | None = None
    stream = await _open_stream(client, [{"role": "user", "content": PROMPT}], SHOWN_TOKENS)
    tokens = 0
    with ExitStack() as printing:
        async for chunk in stream:
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                if choice.delta.content:
                    if first is None:
                        first = time.monotonic()
                        printing.enter_context(journal.paused())
                        print_line(INDENT, end="")
                    line, *more = choice.delta.content.split("\n")
                    print_line(line, end="")
                    for line in more:
                        print_line()
                        print_line(INDENT + line, end="")
        print_line()
    sent.add(stream)
    require(first is not None and tokens > 0, "the stream had no tokens")
    assert first is not None
    rate = tokens / max(1e-9, time.monotonic() - first)
    printer.print(f"first token after {first - sent_at:.2f} s, {tokens} tokens at {rate:.0f} tokens/s")


async def answer_questions(client: openai.AsyncOpenAI, printer: StepPrinter, sent: SentRequests) -> None:
    """Ask every question about the handbook, some concurrently."""
    begun = time.monotonic()
    slots = asyncio.Semaphore(CONCURRENCY)
    totals = await asyncio.gather(*(_answer_question(client, slots, question, sent) for question in QUESTIONS))
    seconds = max(1e-9, time.monotonic() - begun)
    prompt, cached, completion = (sum(parts) for parts in zip(*totals, strict=True))
    require(completion > 0, "the answers have no tokens")
    printer.print(
        f"{len(totals)} answers, {CONCURRENCY} at a time: {prompt:,} prompt tokens, {cached:,} of them cached,"
    )
    printer.print(f"and {completion:,} completion tokens: {(prompt + completion) / seconds:,.0f} tokens/s")


async def _answer_question(
    client: openai.AsyncOpenAI, slots: asyncio.Semaphore, question: str, sent: SentRequests
) -> tuple[int, int, int]:
    """Return the prompt, cached and completion tokens of one answer."""
    async with slots:
        messages: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": HANDBOOK},
            {"role": "user", "content": question},
        ]
        stream = await _open_stream(client, messages, ANSWER_TOKENS)
        usage = None
        async for chunk in stream:
            usage = chunk.usage or usage
        sent.add(stream)
    if usage is None:
        return 0, 0, 0
    details = usage.prompt_tokens_details
    return usage.prompt_tokens, (details.cached_tokens or 0) if details else 0, usage.completion_tokens


async def _open_stream(
    client: openai.AsyncOpenAI, journal: list[ChatCompletionMessageParam], max_tokens: int
) -> openai.AsyncStream[ChatCompletionChunk]:
    return await client.chat.completions.create(
        model=MODEL,
        messages=journal,
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
