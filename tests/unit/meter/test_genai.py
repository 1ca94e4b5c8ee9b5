"""What a span and the histograms say of an event: all of it from the ledger, by the conventions' names."""

import pytest

from services.meter.core.genai import MAX_SERIES, UsageHistograms, span_of
from services.meter.core.otlp import Sender
from shared.messages.gateway import UsageEvent
from tests.kit.otlp_collector import ReceivedHistogram, ReceivedSpan, decode_histograms, decode_spans
from tests.unit.meter.events import MIDNIGHT, event

SENDER = Sender({"service.name": "spotinference", "service.instance.id": "m-1"}, "spotinference.meter", "1.0")
ID = "01932f4e-7a3b-7c1d-9e5f-0123456789ab"


def received(one: UsageEvent) -> ReceivedSpan:
    (span,) = decode_spans(SENDER.encode_spans([span_of(one)]))
    return span


def histograms(*events: UsageEvent) -> list[ReceivedHistogram]:
    sums = UsageHistograms(MIDNIGHT)
    sums.add(events)
    return decode_histograms(SENDER.encode_metrics(sums.collect(MIDNIGHT + 60)))


def test_a_span_has_the_events_fields_under_the_conventions_names() -> None:
    one = event(id=ID, model="org/qwen", duration=2.5, wake_wait=1.25, wake_id="w1", first_token=0.5, choices=2)
    span = received(one)
    assert span.trace_id == ID.replace("-", ""), "a request is found by its id"
    assert (span.name, span.kind, span.is_error) == ("chat org/qwen", 3, False)
    assert span.end_s == pytest.approx(one.completed_at, abs=1e-3)
    assert span.end_s - span.start_s == pytest.approx(2.5, abs=1e-3)
    assert span.resource == {"service.name": "spotinference", "service.instance.id": "m-1"}
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "spotinference",
        "gen_ai.request.model": "org/qwen",
        "gen_ai.request.stream": True,
        "gen_ai.request.choice.count": 2,
        "gen_ai.response.time_to_first_chunk": 1.75,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "http.response.status_code": 200,
        "spotinference.request.id": ID,
        "spotinference.key.id": "k1",
        "spotinference.tier": "l4x2",
        "spotinference.machine": "l4x2-1",
        "spotinference.generation": 1,
        "spotinference.outcome": "completed",
        "spotinference.usage.basis": "engine",
        "spotinference.wake.id": "w1",
        "spotinference.wake.wait": 1.25,
        "spotinference.overhead": 0.001,
    }


def test_an_event_always_has_the_same_ids_and_another_event_others() -> None:
    first, again, other = received(event()), received(event()), received(event(source_seq=2))
    assert (first.trace_id, first.span_id) == (again.trace_id, again.span_id)
    assert first.trace_id != other.trace_id
    assert first.span_id != other.span_id


@pytest.mark.parametrize("unusual", ["not a uuid", "0" * 32, "gw/1", "é" * 200])
def test_any_id_of_an_event_makes_valid_ids(unusual: str) -> None:
    assert received(event(id=unusual)).attributes["spotinference.request.id"] == unusual


@pytest.mark.parametrize(
    ("outcome", "status", "error"),
    [
        ("completed", 200, None),
        ("client_closed", 200, None),
        ("failed", 400, "400"),
        ("failed", 200, "failed"),
        ("failed", 0, "failed"),
        ("engine_lost", 200, "engine_lost"),
    ],
)
def test_an_error_has_a_type(outcome: str, status: int, error: str | None) -> None:
    span = received(event(outcome=outcome, status=status))
    assert span.attributes.get("error.type") == error
    assert span.is_error == (error is not None)


def test_unknown_tokens_are_not_zero_tokens() -> None:
    one = event(basis="none", prompt_tokens=0, completion_tokens=0, first_token=None)
    assert not [name for name in received(one).attributes if name.startswith("gen_ai.usage.")]
    assert "gen_ai.client.token.usage" not in {point.name for point in histograms(one)}


def test_histograms_add_up_to_the_events() -> None:
    events = [event(source_seq=n, prompt_tokens=n, completion_tokens=7, duration=n / 10) for n in range(1, 21)]
    events.append(event(source_seq=21, outcome="failed", status=500, basis="none", duration=0.3))
    points = histograms(*events)
    by_type = {p.attributes["gen_ai.token.type"]: p for p in points if p.name == "gen_ai.client.token.usage"}
    assert (by_type["input"].count, by_type["input"].sum) == (20, sum(range(1, 21)))
    assert (by_type["output"].count, by_type["output"].sum) == (20, 140)
    assert by_type["input"].buckets[:4] == (1, 3, 12, 4), "up to 1, 4, 16, 64"
    durations = [p for p in points if p.name == "gen_ai.client.operation.duration"]
    assert {p.attributes.get("error.type"): p.count for p in durations} == {None: 20, "500": 1}
    assert all(sum(p.buckets) == p.count for p in points)
    assert all(len(p.buckets) == len(p.bounds) + 1 for p in points)
    assert {p.temporality for p in points} == {2}


def test_times_of_the_engine_are_without_the_gateway_and_the_wake() -> None:
    one = event(duration=301.0, wake_wait=299.0, first_token=0.5, overhead=0.1, completion_tokens=4)
    points = {point.name: point for point in histograms(one)}
    assert points["gen_ai.client.operation.duration"].sum == 301.0
    assert points["gen_ai.server.request.duration"].sum == pytest.approx(1.9)
    assert points["gen_ai.server.time_to_first_token"].sum == pytest.approx(0.4)
    assert points["gen_ai.server.time_per_output_token"].sum == pytest.approx(0.5)


def test_histograms_are_bounded_whatever_models_are_called() -> None:
    points = histograms(*(event(source_seq=n, model=f"m{n}") for n in range(1, MAX_SERIES + 11)))
    durations = [p for p in points if p.name == "gen_ai.client.operation.duration"]
    assert len(durations) == MAX_SERIES + 1
    assert durations[-1].attributes == {"otel.metric.overflow": True}
    assert durations[-1].count == 10


@pytest.mark.parametrize(
    ("operation", "name"),
    [("embeddings", "embeddings qwen"), ("text_completion", "text_completion qwen"), ("", "unknown qwen")],
)
def test_the_operation_is_the_one_that_the_gateway_recorded(operation: str, name: str) -> None:
    assert received(event(operation=operation)).name == name
