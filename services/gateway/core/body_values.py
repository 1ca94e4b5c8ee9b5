"""Values of a request's body of which more than their place is read."""

import msgspec

from shared.messages.codec import Decoder

MAX_COUNT_DIGITS = 10
"""Of a number of tokens that is one."""
_ABSENT = msgspec.Raw(b"")


class _FirstTwo(msgspec.Struct, array_like=True):
    first: msgspec.Raw = _ABSENT
    second: msgspec.Raw = _ABSENT


_first_two: Decoder[_FirstTwo] = Decoder(_FirstTwo)


def whole_number(value: msgspec.Raw) -> int:
    """A number of tokens or choices as engines read it, who take `4.0` and `"4"` for 4; 0 where it is none."""
    if not 0 < len(memoryview(value)) < MAX_COUNT_DIGITS:
        return 0
    try:
        number = float(bytes(value).strip(b'"'))
    except ValueError:
        number = 0.0
    return int(number) if number.is_integer() and 0 <= number < 10**MAX_COUNT_DIGITS else 0


def are_several(prompt: msgspec.Raw) -> bool:
    """Whether it is a list of texts or of lists of token ids; one of token ids alone is one prompt."""
    view = memoryview(prompt)
    if view[:1].tobytes() != b"[":
        return False
    two = _first_two.decode(view)
    return len(memoryview(two.second)) > 0 and memoryview(two.first)[:1].tobytes() in (b'"', b"[")
