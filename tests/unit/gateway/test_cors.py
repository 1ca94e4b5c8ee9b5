"""Which pages of the web may read an answer."""

import pytest
from multidict import CIMultiDict

from services.gateway.core.cors import Cors

PAGE = "https://chat.example.org"
CORS = Cors([PAGE, "https://other.example.org"])
PREFLIGHT = CIMultiDict({"Origin": PAGE, "Access-Control-Request-Method": "POST"})


@pytest.mark.parametrize("origin", [None, "", "*", "null", PAGE.upper(), f"{PAGE}.evil.example"])
def test_other_origins_may_read_nothing(origin: str | None) -> None:
    assert CORS.fields(origin) == b"Vary: Origin\r\n"


def test_a_configured_page_may_read_the_answer_and_its_headers() -> None:
    assert CORS.fields(PAGE) == (
        b"Access-Control-Allow-Origin: https://chat.example.org\r\n"
        b"Access-Control-Expose-Headers: x-request-id, retry-after, x-should-retry, x-ratelimit-limit-requests, "
        b"x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, "
        b"x-ratelimit-reset-requests, x-ratelimit-reset-tokens\r\n"
        b"Vary: Origin\r\n"
    )


@pytest.mark.parametrize("origin", [None, PAGE])
def test_any_origin_may_read_the_response_when_configured(origin: str | None) -> None:
    fields = Cors([PAGE, "*"]).fields(origin)
    assert fields.startswith(b"Access-Control-Allow-Origin: *\r\n")
    assert b"Vary" not in fields


def test_a_preflight_is_allowed_for_configured_pages_alone() -> None:
    allowed = CORS.preflight("OPTIONS", PREFLIGHT)
    assert allowed is not None
    assert b"Access-Control-Allow-Methods: GET, HEAD, POST\r\n" in allowed
    elsewhere = CIMultiDict({**PREFLIGHT, "Origin": "https://elsewhere.example"})
    assert CORS.preflight("OPTIONS", elsewhere) == b""
    assert Cors(["*"]).preflight("OPTIONS", elsewhere) == allowed


@pytest.mark.parametrize(
    ("method", "headers"), [("POST", PREFLIGHT), ("OPTIONS", {"origin": PAGE}), ("OPTIONS", CIMultiDict())]
)
def test_any_other_request_is_no_preflight(method: str, headers: CIMultiDict[str]) -> None:
    assert CORS.preflight(method, headers) is None
