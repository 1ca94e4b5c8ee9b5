"""A request's line has its fields in their order, and the time to the microsecond."""

import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.adapters import access_log
from services.gateway.adapters.access_log import AccessLog, RequestLine
from shared.runtime import logs


class Stream:
    """Standard error of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data = b""
        monkeypatch.setattr(logs, "stderr", lambda: self)

    def write_bytes(self, data: bytes) -> None:
        self.data += data


def line(path: str = "/v1/models", status: int = 200) -> RequestLine:
    return RequestLine(
        request_id="r",
        peer="127.0.0.1",
        method="GET",
        path=path,
        status=status,
        code="",
        seconds=0.25,
        key_id=None,
        model=None,
        machine=None,
        outcome=None,
        prompt_tokens=0,
        completion_tokens=0,
        wake_wait=0.0,
        first_byte=None,
    )


def test_a_line_is_written_with_the_next_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, log = Stream(monkeypatch), AccessLog("gateway", enabled=True)
    log.write(line('/é"\n'), 1780000000.0625)
    assert stream.data == b""
    log.flush()
    log.flush()
    assert stream.data.decode() == (
        '{"service":"gateway","level":"info","request_id":"r","peer":"127.0.0.1","method":"GET","path":"/é\\"\\n",'
        '"status":200,"code":"","seconds":0.25,"key_id":null,"model":null,"machine":null,"outcome":null,'
        '"prompt_tokens":0,"completion_tokens":0,"wake_wait":0.0,"first_byte":null,"event":"request",'
        '"timestamp":"2026-05-28T20:26:40.062500Z"}\n'
    )


def test_many_lines_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, log = Stream(monkeypatch), AccessLog("gateway", enabled=True)
    for number in range(access_log.MAX_LINES + 1):
        log.write(line(status=number), float(number))
    assert [json.loads(text)["status"] for text in stream.data.splitlines()] == list(range(access_log.MAX_LINES))


@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=20))
def test_the_timestamp_is_the_moment(moments: list[float]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        stream, log = Stream(monkeypatch), AccessLog("gateway", enabled=True)
        for now in moments:
            log.write(line(), now)
        log.flush()
    texts = [json.loads(text)["timestamp"] for text in stream.data.splitlines()]
    assert {len(text) for text in texts} == {27}
    assert [datetime.fromisoformat(text).timestamp() for text in texts] == pytest.approx(moments, abs=2e-6)
