"""The description has every path and every error of the gateway, and is OpenAPI as others read it."""

import inspect
import json
from typing import Any

import jsonschema_rs
import pytest

from services.gateway.core import errors, openapi
from services.gateway.core.endpoints import ENDPOINTS
from services.gateway.core.errors import ApiError
from services.gateway.core.openapi import OF_AN_ENGINE, OF_NO_PATH, document
from services.gateway.core.request_body import parse

DOCUMENT: dict[str, Any] = json.loads(document())
SHARED = DOCUMENT["components"]


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """`node`, or what its `$ref` names."""
    for step in node.get("$ref", "#").split("/")[1:]:
        node = DOCUMENT if step == "components" else node
        node = node[step]
    return node


def answers(path: str) -> dict[str, dict[str, Any]]:
    (operation,) = DOCUMENT["paths"][path].values()
    return {status: resolved(answer) for status, answer in operation["responses"].items()}


def codes(answer: dict[str, Any]) -> set[str]:
    return {example["value"]["error"]["code"] for example in answer["content"]["application/json"]["examples"].values()}


def test_every_error_of_the_table_is_described() -> None:
    """An error that is new belongs into one of the module's lists, by the paths that may answer so."""
    made = {
        name for name, make in vars(errors).items() if inspect.isfunction(make) and make.__module__ == errors.__name__
    }
    assert {name for name in made if f"errors.{name}(" in inspect.getsource(openapi)} == made


@pytest.mark.parametrize("error", OF_AN_ENGINE, ids=lambda error: f"{error.status}-{error.code}")
def test_the_description_of_an_error_matches_the_error(error: ApiError) -> None:
    for path in ENDPOINTS:
        answer = answers(path)[str(error.status)]
        reported = [example["value"] for example in answer["content"]["application/json"]["examples"].values()]
        assert json.loads(error.body()) in reported
        assert {"x-request-id", *error.headers} <= set(answer["headers"])
        assert error.code in answer["description"]


@pytest.mark.parametrize("error", OF_NO_PATH, ids=lambda error: error.code)
def test_what_no_path_answers_is_described_beside_them(error: ApiError) -> None:
    assert {error.code} == codes(SHARED["responses"][error.code])
    assert set(error.headers) <= set(SHARED["responses"][error.code]["headers"])


def test_an_advice_that_always_comes_is_promised() -> None:
    assert answers("/v1/models")["401"]["headers"].keys() == {"x-request-id", "WWW-Authenticate"}
    assert resolved(answers("/v1/models")["401"]["headers"]["WWW-Authenticate"])["required"]
    assert resolved(answers("/v1/models")["401"]["headers"]["x-request-id"])["required"]
    assert SHARED["responses"]["method_not_allowed"]["headers"]["Allow"]["required"]
    unsure = resolved(answers("/v1/responses")["503"]["headers"]["Retry-After"])
    assert not unsure.get("required"), "not every 503 has it"


def test_each_path_has_its_own_statuses() -> None:
    every = {"400", "408", "431", "500"}
    assert set(answers("/openapi.json")) == {"200", *every}
    assert set(answers("/health")) == {"200", "503", *every}
    assert set(answers("/v1/models")) == {"200", "401", *every}
    assert set(answers("/v1/models/{model}")) == {"200", "401", "403", "404", *every}
    engine = {"403", "404", "411", "413", "415", "429", "502", "503", "504"}
    for path in ENDPOINTS:
        assert set(answers(path)) == {"200", "401", "default", *every, *engine}
        assert set(answers(path)["200"]["content"]) == {"application/json", "text/event-stream"}


def test_every_path_but_the_description_and_health_needs_a_key() -> None:
    assert DOCUMENT["security"] == [{"key": []}]
    without = [path for path, item in DOCUMENT["paths"].items() if any("security" in made for made in item.values())]
    assert sorted(without) == ["/health", "/openapi.json"]
    assert all(DOCUMENT["paths"][path]["get"]["security"] == [] for path in without)


def test_it_is_openapi_as_others_read_it() -> None:
    from schemathesis import openapi as reader

    schema = reader.from_dict(DOCUMENT)
    schema.validate()
    assert len(list(schema.get_all_operations())) == len(DOCUMENT["paths"])


@pytest.mark.parametrize(
    ("body", "good"),
    [
        ({"model": "m"}, True),
        ({"model": "m", "stream": None, "stream_options": None, "anything": [{}]}, True),
        ({"model": "m", "stream": True, "stream_options": {"include_usage": True, "vendor": 1}}, True),
        ({}, False),
        ({"model": ""}, False),
        ({"model": 1}, False),
        ({"model": "m", "stream": "yes"}, False),
        ({"model": "m", "stream_options": {"include_usage": 1}}, False),
        ([], False),
    ],
)
def test_a_request_is_described_as_it_is_read(body: object, *, good: bool) -> None:
    described = jsonschema_rs.validator_for(SHARED["schemas"]["Request"]).is_valid(body)
    try:
        parse(json.dumps(body).encode())
        read = True
    except ApiError:
        read = False
    assert (described, read) == (good, good)
