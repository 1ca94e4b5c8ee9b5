"""OTLP's messages in JSON, as far as spans and histograms need them.

https://opentelemetry.io/docs/specs/otlp: names are lowerCamelCase, ids hexadecimal, 64-bit integers strings, and
enumerations numbers.
"""

from collections.abc import Mapping, Sequence

import msgspec

from shared.messages.codec import encode

SPAN_KIND_CLIENT = 3
STATUS_ERROR = 2
CUMULATIVE = 2

Value = str | int | float | bool


class AnyValue(msgspec.Struct, rename="camel", omit_defaults=True):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: str | None = None
    double_value: float | None = None


class Attribute(msgspec.Struct):
    key: str
    value: AnyValue


class Status(msgspec.Struct, omit_defaults=True):
    code: int = 0
    message: str = ""


class Span(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    trace_id: str
    span_id: str
    name: str
    kind: int
    start_time_unix_nano: str
    end_time_unix_nano: str
    attributes: Sequence[Attribute]
    status: Status = msgspec.field(default_factory=Status)


class HistogramPoint(msgspec.Struct, kw_only=True, rename="camel"):
    attributes: Sequence[Attribute]
    start_time_unix_nano: str
    time_unix_nano: str
    count: str
    sum: float
    bucket_counts: Sequence[str]
    explicit_bounds: Sequence[float]


class Histogram(msgspec.Struct, kw_only=True, rename="camel"):
    data_points: Sequence[HistogramPoint]
    aggregation_temporality: int = CUMULATIVE


class Metric(msgspec.Struct, kw_only=True):
    name: str
    description: str
    unit: str
    histogram: Histogram


class _Scope(msgspec.Struct):
    name: str
    version: str


class _ScopeSpans(msgspec.Struct):
    scope: _Scope
    spans: Sequence[Span]


class _ScopeMetrics(msgspec.Struct):
    scope: _Scope
    metrics: Sequence[Metric]


class _Resource(msgspec.Struct):
    attributes: Sequence[Attribute]


class _ResourceSpans(msgspec.Struct, rename="camel"):
    resource: _Resource
    scope_spans: Sequence[_ScopeSpans]


class _ResourceMetrics(msgspec.Struct, rename="camel"):
    resource: _Resource
    scope_metrics: Sequence[_ScopeMetrics]


class _TraceRequest(msgspec.Struct, rename="camel"):
    resource_spans: Sequence[_ResourceSpans]


class _MetricsRequest(msgspec.Struct, rename="camel"):
    resource_metrics: Sequence[_ResourceMetrics]


class PartialSuccess(msgspec.Struct, rename="camel"):
    """What a collector did not take of a request that it answered with 200."""

    rejected_spans: int | str = 0
    error_message: str = ""


class ExportResponse(msgspec.Struct, rename="camel"):
    partial_success: PartialSuccess | None = None


class Sender:
    """Who reports: the resource and the scope of every request."""

    def __init__(self, resource: Mapping[str, Value], scope: str, version: str) -> None:
        self._resource = _Resource(attributes(resource))
        self._scope = _Scope(scope, version)

    def encode_spans(self, spans: Sequence[Span]) -> bytes:
        return encode(_TraceRequest([_ResourceSpans(self._resource, [_ScopeSpans(self._scope, spans)])]))

    def encode_metrics(self, metrics: Sequence[Metric]) -> bytes:
        return encode(_MetricsRequest([_ResourceMetrics(self._resource, [_ScopeMetrics(self._scope, metrics)])]))


def attributes(values: Mapping[str, Value | None]) -> list[Attribute]:
    """Return the attributes that have a value."""
    return [Attribute(key, _any_value(value)) for key, value in values.items() if value is not None]


def unix_nano(seconds: float) -> str:
    """Return a time as OTLP writes it; floats resolve to less than a microsecond."""
    return str(round(seconds * 1_000_000) * 1000)


def _any_value(value: Value) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=str(value))
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
