"""`docs/reference/api.md` has the gateway's paths and every error that it tells, with its status and headers."""

import ast
import inspect
import re

from services.gateway.core import errors
from services.gateway.core.endpoints import ENDPOINTS
from services.gateway.core.errors import ApiError
from tests.docs.pages import ROOT, page, quoted

PAGE = page("docs/reference/api.md")


def told_errors() -> list[ApiError]:
    """Every error of the table, made by its own function, and those that other modules make themselves."""
    found: list[ApiError] = []
    for make in vars(errors).values():
        if inspect.isfunction(make) and make.__module__ == errors.__name__:
            blanks = [parameter.name for parameter in inspect.signature(make).parameters.values()]
            values = {"seconds": 1.0, "limit": 1, "retry_after": 1, "cap": 1.0}
            found.append(make(**{name: values.get(name, "x") for name in blanks}))
    found += [errors.budget_closed("billing_unobservable", is_starting=is_starting) for is_starting in (False, True)]
    for path in sorted((ROOT / "services" / "gateway").rglob("*.py")):
        if path.name != "errors.py":
            found += [_made(call) for call in ast.walk(ast.parse(path.read_text("utf-8"))) if _makes_an_error(call)]
    return found


def _makes_an_error(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ApiError"


def _made(node: ast.AST) -> ApiError:
    assert isinstance(node, ast.Call)
    return ApiError(*(ast.literal_eval(argument) for argument in node.args))


def test_the_table_of_errors_is_the_code_s() -> None:
    rows = [(int(cells[0]), quoted(cells[1])[0]) for cells in PAGE.rows("## Errors")]
    told = {(error.status, error.code) for error in told_errors()}
    assert len(told) >= 20
    assert len(rows) == len(set(rows))
    assert set(rows) == told


def test_what_a_client_is_told_to_do_is_in_the_headers() -> None:
    advice = {quoted(cells[1])[0]: cells[3] for cells in PAGE.rows("## Errors")}
    told: dict[str, dict[str, set[str]]] = {}
    for error in told_errors():
        for name, value in error.headers.items():
            told.setdefault(error.code, {}).setdefault(name, set()).add(value)
    for code, said in advice.items():
        headers = told.get(code, {})
        assert ("Retry-After" in headers) == ("`Retry-After`" in said), code
        retry = set(re.findall(r"`x-should-retry: (\w+)`", said))
        assert headers.get("x-should-retry", set()) == retry, code


def test_the_type_follows_from_the_status() -> None:
    for error in told_errors():
        by_status = "server_error" if error.status >= 500 else "invalid_request_error"
        assert error.type == ("rate_limit_error" if error.status == 429 else by_status), error.code


def test_every_path_of_an_engine_is_described() -> None:
    described = set(re.findall(r"`POST (/\S+)`", PAGE.text))
    assert described == set(ENDPOINTS)
