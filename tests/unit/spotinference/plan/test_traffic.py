"""A trace is read as it is written, or refused with its line and column; requests go to the first tier of a lineup."""

from pathlib import Path

import pytest

from shared.config.load import parse
from shared.errors import Misconfigured
from shared.units import DAY_S
from spotinference.plan.traffic import (
    Request,
    Requests,
    day_span,
    group_by_tier,
    read_trace,
    requests_within,
    traffic,
)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "trace.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_times_are_rfc_3339_or_unix_seconds(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "time,model,tokens\n1000.5,a,100\n1970-01-01T00:16:40Z,a,50\n\n1970-01-01T01:16:40.250+01:00,org/b,0\n",
    )
    assert read_trace(path, 50.0) == {
        "a": [Request(1000.5, 2.0, 100), Request(1000.0, 1.0, 50)],
        "org/b": [Request(1000.25, 0.0, 0)],
    }


def test_columns_may_stand_anywhere_among_others(tmp_path: Path) -> None:
    path = written(tmp_path, '\ufeffkey, tokens ,model,time\r\nk1, 7 ,"a,b", 5 \r\n')
    assert read_trace(path, 7.0) == {"a,b": [Request(5.0, 1.0, 7)]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: column time: the header"),
        ("time,tokens\n", "line 1: column model: the header"),
        ("time,model,tokens,time\n", "line 1: column time: the header"),
        ("time,model,tokens\n1,a,5\nyesterday,a,5\n", "line 3: column time: expected RFC 3339"),
        ("time,model,tokens\n2026-11-23T10:00:00,a,5\n", "line 2: column time: '2026-11-23T10:00:00' has no offset"),
        ("time,model,tokens\n-1,a,5\n", "line 2: column time: expected"),
        ("time,model,tokens\n1e999,a,5\n", "line 2: column time: expected"),
        ("time,model,tokens\n99999999999999,a,5\n", "line 2: column time: expected"),
        ("time,model,tokens\nnan,a,5\n", "line 2: column time: expected"),
        ("time,model,tokens\n1,,5\n", "line 2: column model: empty"),
        ("time,model,tokens\n1,a,5.5\n", "line 2: column tokens: expected a whole number, got '5.5'"),
        ("time,model,tokens\n1,a,-5\n", "line 2: column tokens"),
        ("time,model,tokens\n1,a\n", "line 2: 2 fields, but the header has 3"),
        ("time,model,tokens\n1,a,5,6\n", "line 2: 4 fields"),
        ('time,model,tokens\n1,"a,5\n', "line 2: unexpected end"),
        (b"time,model,tokens\n1,\xff,5\n", "not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_refused_by_line_and_column(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(Misconfigured) as refusal:
        read_trace(path, 50.0)
    assert f"{path}: {message}" in str(refusal.value)


def test_a_trace_of_nothing_is_no_request(tmp_path: Path) -> None:
    assert not requests_within(read_trace(written(tmp_path, "time,model,tokens\n"), 50.0), (0.0, 9e9))


CONFIG = """
[[tier]]
name = "spot"
provider = "static"
[[tier]]
name = "dear"
provider = "static"
[[machine]]
id = "spot-1"
tier = "spot"
endpoint = "http://127.0.0.1:1"
[[machine]]
id = "dear-1"
tier = "dear"
endpoint = "http://127.0.0.1:2"
[[model]]
name = "a"
lineup = ["spot", "dear"]
[[model]]
name = "b"
lineup = ["dear"]
[[model]]
name = "c"
lineup = ["spot"]
"""


def test_requests_go_to_the_first_tier_of_their_models_lineup() -> None:
    a, b, c = (Request(float(n), 1.0, n) for n in (1, 2, 3))
    served, unknown = group_by_tier({"a": [a], "b": [b, b], "c": [c], "zz": [a, b]}, parse(CONFIG, "test"))
    assert served == {"spot": [a, c], "dear": [b, b]}
    assert unknown == {"zz": 2}


def test_a_span_has_its_start_and_not_its_end() -> None:
    requests: Requests = {"a": [Request(1.0, 0.0, 1), Request(2.0, 0.0, 1)], "b": [Request(3.0, 0.0, 1)]}
    assert requests_within(requests, (2.0, 3.0)) == {"a": [Request(2.0, 0.0, 1)]}


def test_days_are_whole() -> None:
    requests: Requests = {"a": [Request(DAY_S * 5 + 1, 0.0, 1)], "b": [Request(DAY_S * 3 - 1, 0.0, 1)]}
    assert day_span(requests) == (DAY_S * 2, DAY_S * 6)
    assert day_span({"a": [Request(DAY_S, 0.0, 1)]}) == (DAY_S, 2 * DAY_S)


def test_traffic_is_in_its_order() -> None:
    result = traffic([Request(5.0, 1.0, 10), Request(2.0, 3.0, 20)], (0.0, 9.0))
    assert (result.arrivals, result.seconds, result.tokens) == ((2.0, 5.0), (3.0, 1.0), 30)
