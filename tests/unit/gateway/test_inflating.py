"""A compressed response in steps."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.content_coding import Inflater


@given(text=st.binary(min_size=1, max_size=50), times=st.integers(1, 300), most=st.integers(1, 700))
def test_steps_of_any_size_give_the_same(text: bytes, times: int, most: int) -> None:
    packed = zlib.compress(text * times) + b"what follows is nobody's"
    inflater = Inflater(b"deflate")
    steps = [inflater.feed(packed, most)]
    while inflater.behind:
        steps.append(inflater.feed(b"", most))
    assert max(map(len, steps)) <= most
    assert (b"".join(steps), inflater.complete, inflater.feed(b"more", most)) == (text * times, True, b"")
