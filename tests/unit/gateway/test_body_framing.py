"""The end of a body is found in any reads, and never beyond what a parser takes for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.body_framing import BodyFraming

LINES = st.text("abc0:; 1", max_size=100).filter(lambda text: ":" in text).map(lambda text: b"%b\r\n" % text.encode())
EXTENSIONS = st.sampled_from([b"", b";a", b";a=b;c", b";" + b"a" * 100])
CHUNKS = st.lists(st.tuples(st.binary(min_size=1, max_size=40) | st.just(b"0\r\n\r\n"), EXTENSIONS), max_size=8)
READS = st.lists(st.integers(1, 60), max_size=12)


def ends(framing: BodyFraming, data: bytes, sizes: list[int]) -> int:
    """Where the body ends after all the data, read in so many bytes each."""
    seen = 0
    for size in (*sizes, len(data)):
        read, data = data[:size], data[size:]
        end = framing.find_end(read, 0)
        seen += end
        if framing.is_complete:
            break
        assert end == len(read)
    return seen


@given(CHUNKS, EXTENSIONS, st.lists(LINES, max_size=3), st.binary(max_size=40), READS)
def test_chunks_and_their_trailers_end_with_a_blank_line(
    chunks: list[tuple[bytes, bytes]], last: bytes, trailers: list[bytes], behind: bytes, sizes: list[int]
) -> None:
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk, extension in chunks)
    body += b"00%b\r\n%b\r\n" % (last, b"".join(trailers))
    framing = BodyFraming(None)
    assert ends(framing, body + behind, sizes) == len(body)
    assert framing.is_complete
    framing = BodyFraming(None)
    assert ends(framing, body[:-1], sizes) == len(body) - 1
    assert not framing.is_complete


@given(st.binary(max_size=100), st.binary(max_size=40), READS)
def test_a_length_is_the_end(body: bytes, behind: bytes, sizes: list[int]) -> None:
    framing = BodyFraming(len(body))
    assert ends(framing, body + behind, sizes) == len(body)
    assert framing.is_complete


@pytest.mark.parametrize("line", [b"\r\n", b"x\r\n", b"-1\r\n", b"+1\r\n", b"1_0\r\n", b"0x1\r\n", b"0" * 17 + b"\r\n"])
def test_what_is_no_size_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="size"):
        BodyFraming(None).find_end(line, 0)
