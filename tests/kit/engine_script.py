"""What a scripted engine is told: how one request is answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """What the model wants called. `arguments` is JSON text."""

    name: str
    arguments: str
    id: str = "call-1"


@dataclass(frozen=True, kw_only=True)
class Script:
    """How one request is answered. Chunks are counted with the role chunk, which is the first; a request for `n`
    choices gets `n` of each."""

    tokens: int = 5
    """Of each choice, reasoning included: ` w1`, ` w2` and so on."""
    words: tuple[str, ...] = ()
    """What the tokens say instead, one each."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Instead of words: a token for each name and for each piece of its arguments."""
    reasoning_tokens: int = 0
    """So many of the first tokens are reasoning, ` r1`."""
    prompt_tokens: int = 7
    cached_tokens: int = 0
    reports_usage: bool = True
    """False: an engine that tells no usage, whatever it is asked."""
    vendor: Mapping[str, Any] = field(default_factory=dict)
    """Fields that nobody knows, in each chunk, its choices and the whole answer."""
    line_end: str = "\n"
    """Of an event stream."""
    write_size: int | None = None
    """Bytes a write, wherever characters and events end; None: an event a write."""
    headers_after: float = 0.0
    """Seconds."""
    interval: float = 0.0
    """Seconds before each token."""
    hold_after: int | None = None
    """Wait for `release` after so many chunks; 0: before the headers."""
    reset_after: int | None = None
    """Reset the connection after so many chunks; 0: before the headers."""
    reset_at: int | None = None
    """Reset the connection after so many bytes of the body."""
    cut_after: int | None = None
    """End the answer cleanly after so many chunks, without what belongs to its end."""
    cut_at: int | None = None
    """End a stream cleanly after so many bytes, as a proxy does whose engine has died."""
    status: int = 200
    message: str = "as the script says"
    retry_after: str | None = None
