"""Who is blamed for what engines say, and what of their responses goes on to clients."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.content_coding import MAX_INFLATED, Inflater, Undecodable
from services.gateway.core.engine_error import EngineError, is_machine_failure, is_refusal, read_error
from services.gateway.http.response_headers import MAX_BYTES, passed_on


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (b'{"message":"x","type":"InternalServerError","param":null,"code":500}', False),
        (b'{"message":"x","type":"BadRequestError","code":400}', True),
        (b'{"message":"x","type":"server_error","code":"404"}', True),
        (b'{"message":"x","type":"not_supported_error","code":501}', True),
        (b'{"message":"x","type":"invalid_request_error","code":null}', True),
        (b'{"message":"x","type":"exceed_context_size_error"}', True),
        (b'{"message":"x","code":"context_length_exceeded"}', True),
        (b'{"message":"x","code":"rate_limit_exceeded"}', True),
        (b'{"message":"invalid","type":"server_error"}', False),
        (b'{"code":40303}', False),
        (b'"out of memory"', False),
        (b"[1]", False),
        (b"true", False),
    ],
)
def test_an_error_blames_the_request_by_its_status_or_else_its_name(error: bytes, *, refused: bool) -> None:
    assert read_error(error) == EngineError(refused=refused)


@pytest.mark.parametrize("nothing", [b"", b"null", b"false", b'""', b"{}", b"[]", b"0"])
def test_an_empty_error_is_none(nothing: bytes) -> None:
    assert read_error(nothing) is None


def test_501_is_the_request_s_fault() -> None:
    assert [status for status in range(100, 600) if is_machine_failure(status)] == [500, *range(502, 600)]
    assert not any(is_refusal(status) and is_machine_failure(status) for status in range(100, 600))


@given(st.dictionaries(st.binary(max_size=12).map(bytes.lower), st.binary(max_size=30), max_size=8), st.booleans())
def test_headers_stay_header_lines_whatever_an_engine_says(headers: dict[bytes, bytes], stream: bool) -> None:
    fields = passed_on(headers, stream=stream)
    *lines, end = fields.split(b"\r\n")
    assert end == b""
    assert all(b": " in line and b"\r" not in line and b"\n" not in line and b"\0" not in line for line in lines)
    assert lines[0].lower().startswith(b"content-type: ")


def test_headers_together_are_bounded() -> None:
    headers = {b"x-%d" % number: b"y" * 100 for number in range(500)} | {b"content-type": b"z" * 20_000}
    assert len(passed_on(headers, stream=False)) <= MAX_BYTES + 100


@given(st.lists(st.binary(max_size=50), max_size=5), st.sampled_from([b"gzip", b"deflate"]))
def test_any_bytes_are_inflated_or_refused(reads: list[bytes], coding: bytes) -> None:
    inflater = Inflater(coding)
    try:
        assert sum(len(inflater.feed(data, MAX_INFLATED)) for data in reads) <= len(reads) * MAX_INFLATED
    except Undecodable:
        return


@pytest.mark.parametrize("bits", [zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS])
@given(text=st.binary(min_size=1, max_size=200), size=st.integers(1, 4))
def test_compressed_text_may_come_a_few_bytes_at_a_time(bits: int, text: bytes, size: int) -> None:
    packer = zlib.compressobj(wbits=bits)
    packed = packer.compress(text) + packer.flush()
    inflater = Inflater(b"gzip" if bits > zlib.MAX_WBITS else b"deflate")
    inflated = b""
    for at in range(0, len(packed), size):
        assert not inflater.complete or at == 0
        inflated += inflater.feed(packed[at : at + size], MAX_INFLATED)
    assert (inflated, inflater.complete) == (text, True)
