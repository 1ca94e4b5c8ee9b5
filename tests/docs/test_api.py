"""`docs/reference/api.md` has the gateway's paths and every error that it returns, with its status and headers."""

import ast
import inspect
import re

from services.gateway.core import errors
from services.gateway.core.endpoints import ENDPOINTS
from services.gateway.core.errors import ApiError
from tests.docs.pages import ROOT, page, quoted

PAGE = page("docs/reference/api.md")


def api_errors() -> list[ApiError]:
    """One of every error: made by its function in `core/errors.py`, or by the module that constructs it itself."""
    samples: list[ApiError] = []
    for make in vars(errors).values():
        if inspect.isfunction(make) and make.__module__ == errors.__name__:
            parameters = [parameter.name for parameter in inspect.signature(make).parameters.values()]
            values = {"seconds": 1.0, "limit": 1, "retry_after": 1, "cap": 1.0}
            samples.append(make(**{name: values.get(name, "x") for name in parameters}))
    samples += [errors.budget_closed("billing_unobservable", is_starting=is_starting) for is_starting in (False, True)]
    for path in sorted((ROOT / "services" / "gateway").rglob("*.py")):
        if path.name != "errors.py":
            tree = ast.parse(path.read_text("utf-8"))
            samples += [_construct(call) for call in ast.walk(tree) if _constructs_an_error(call)]
    return samples


def _constructs_an_error(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ApiError"


def _construct(node: ast.AST) -> ApiError:
    assert isinstance(node, ast.Call)
    return ApiError(*(ast.literal_eval(argument) for argument in node.args))


def test_the_table_of_errors_equals_the_code() -> None:
    rows = [(int(cells[0]), quoted(cells[1])[0]) for cells in PAGE.rows("## Errors")]
    known = {(error.status, error.code) for error in api_errors()}
    assert len(known) >= 20
    assert len(rows) == len(set(rows))
    assert set(rows) == known


def test_the_advice_of_each_error_matches_its_headers() -> None:
    advice = {quoted(cells[1])[0]: cells[3] for cells in PAGE.rows("## Errors")}
    headers_of_code: dict[str, dict[str, set[str]]] = {}
    for error in api_errors():
        for name, value in error.headers.items():
            headers_of_code.setdefault(error.code, {}).setdefault(name, set()).add(value)
    for code, cell in advice.items():
        headers = headers_of_code.get(code, {})
        assert ("Retry-After" in headers) == ("`Retry-After`" in cell), code
        retry = set(re.findall(r"`x-should-retry: (\w+)`", cell))
        assert headers.get("x-should-retry", set()) == retry, code


def test_the_type_of_an_error_follows_from_its_status() -> None:
    for error in api_errors():
        by_status = "server_error" if error.status >= 500 else "invalid_request_error"
        assert error.type == ("rate_limit_error" if error.status == 429 else by_status), error.code


def test_every_engine_endpoint_is_described() -> None:
    described = set(re.findall(r"`POST (/\S+)`", PAGE.text))
    assert described == set(ENDPOINTS)
