"""A fault in the middle of an answer ends that one request with an error; and who is blamed for what engines say."""

import zlib
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.content_coding import MAX_INFLATED, Inflater, Undecodable
from services.gateway.core.endpoints import ENDPOINTS
from services.gateway.core.engine_error import EngineError, is_machine_failure, is_refusal, read_error
from services.gateway.core.errors import ApiError
from services.gateway.core.memory import Memory
from services.gateway.core.request_body import parse
from services.gateway.core.scheduler import RequestScheduler
from services.gateway.core.usage_record import UsageRecord
from services.gateway.door import Door
from services.gateway.http.answer import WholeAnswer
from services.gateway.http.connection import ClientConnection
from services.gateway.http.relay import Relay
from services.gateway.http.request import Request
from services.gateway.http.response_headers import MAX_BYTES, passed_on
from tests.unit.gateway.test_scheduler import CONFIG, MODEL, record

HEAD: dict[bytes, bytes] = {b"content-type": b"application/json"}
STREAM: dict[bytes, bytes] = {b"content-type": b"text/event-stream"}


class Fault(Exception):
    """One that nobody foresaw."""


class Call:
    """One to an engine."""

    def __init__(self) -> None:
        self.written, self.aborted, self.paused = True, False, False

    def abort(self) -> None:
        self.aborted = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class Stage:
    """A relay whose every neighbour is here to be broken."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.sent: list[bytes] = []
        self.aborted = self.finished = False
        self.breaks: set[str] = set()
        self.call = Call()
        self.tally = UsageRecord("r", "k", 0.0)
        body = b'{"model":"m","stream":true}'
        self.tally.on_parsed("m", parse(body))
        fleet = {"s1": record("s1", "ready")}
        self.scheduler = RequestScheduler(CONFIG, fleet)
        door = SimpleNamespace(
            config=CONFIG,
            engine_keys=SimpleNamespace(find=lambda _machine, _endpoint: None),
            engines=SimpleNamespace(call=self._call),
            scheduler=self.scheduler,
            memory=Memory(2**30, 2**30),
            metrics=SimpleNamespace(faults=0, failovers=0, chunk_gap=SimpleNamespace(observe=lambda _seconds: None)),
            now=self._now,
        )
        self.metrics = door.metrics
        request = Request(door.memory)
        request.id = "r"
        self.relay = Relay(
            self,
            cast("Door", door),
            cast("ClientConnection", self),
            request,
            asked=parse(body),
            model=MODEL,
            endpoint=ENDPOINTS["/v1/chat/completions"],
            tally=self.tally,
        )
        machine = self.scheduler.acquire("m", "k", 0.0)
        assert machine is not None
        self.relay.forward(machine)

    def _now(self) -> float:
        self._may_break("now")
        return 1.0

    def _call(self, _origin: str, _request: object, _receiver: object) -> Call:
        self._may_break("call")
        return self.call

    def _may_break(self, what: str) -> None:
        if what in self.breaks:
            raise Fault(what)

    # The client's connection, and the owner.

    def send(self, _request: Request, data: bytes) -> None:
        self._may_break("send")
        self.sent.append(data)

    def abort(self) -> None:
        self.aborted = True

    def start_stream(self, _fields: bytes) -> None:
        self._may_break("start_stream")

    def record(self) -> None:
        self._may_break("record")
        self.relay.sum_up()

    def finish_stream(self) -> None:
        self._may_break("finish_stream")
        self.finished = True

    def finish_whole(self, _answer: WholeAnswer) -> None:
        self._may_break("finish_whole")

    def fail(self, error: ApiError) -> None:
        self._may_break("fail")
        self.failed.append(error.code)


def test_a_fault_on_the_way_to_the_engine_ends_the_request() -> None:
    stage = Stage()
    stage.breaks = {"call"}
    stage.relay.forward(record("s1", "ready"))
    assert (stage.failed, stage.metrics.faults) == (["upstream_unreachable"], 1)


@pytest.mark.parametrize(("headers", "where"), [(HEAD, "now"), (STREAM, "start_stream")])
def test_a_fault_at_the_head_ends_the_request(headers: dict[bytes, bytes], where: str) -> None:
    stage = Stage()
    stage.breaks = {where}
    stage.relay.on_head(200, headers)(b"what comes then belongs to nobody")
    assert len(stage.failed) == stage.metrics.faults == 1


@pytest.mark.parametrize("where", ["now", "send", "record"])
def test_a_fault_in_a_stream_ends_it_with_an_error(where: str) -> None:
    stage = Stage()
    feed = stage.relay.on_head(200, STREAM)
    stage.breaks = {where}
    feed(b'data: {"choices":[{"index":0,"delta":{"content":"w"}}]}\n\ndata: [DONE]\n\n')
    assert (stage.failed, stage.metrics.faults) == (["engine_lost"], 1)


@pytest.mark.parametrize(("headers", "where"), [(HEAD, "finish_whole"), (STREAM, "finish_stream")])
def test_a_fault_at_the_end_ends_the_request(headers: dict[bytes, bytes], where: str) -> None:
    stage = Stage()
    feed = stage.relay.on_head(200, headers)
    feed(b"data: [DONE]\n\n" if headers is STREAM else b"{}")
    stage.breaks = {where}
    stage.relay.on_end()
    assert (len(stage.failed), stage.metrics.faults) == (1, 1)


def test_a_fault_while_telling_of_a_fault_closes_the_client_s_connection() -> None:
    stage = Stage()
    stage.breaks = {"fail"}
    stage.relay.on_lost("died", unreachable=False)
    assert stage.aborted


def test_who_is_blamed_for_a_loss() -> None:
    stage = Stage()
    for _ in range(3):
        stage.relay.on_lost("refused", unreachable=True)
    assert not stage.scheduler.breaker.is_closed("s1", "somebody else", 1.0)
    stage = Stage()
    for _ in range(3):
        stage.relay.on_lost("reset", unreachable=False)
    assert stage.scheduler.breaker.is_closed("s1", "somebody else", 1.0)
    assert not stage.scheduler.breaker.is_closed("s1", "k", 1.0)


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
