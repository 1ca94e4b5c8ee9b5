"""Every message that was ever published can still be read: recorded examples of each type and version.

An example is never changed once it is released; a message that grows may get another one, `TAG.WHAT.json`.
"""

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

import shared.messages
from shared.messages.codec import Message, Unreadable, decode, encode

FOLDER = Path(__file__).parent / "messages"
EXAMPLES = sorted(FOLDER.glob("*.json"))
for _module in pkgutil.iter_modules(shared.messages.__path__):
    importlib.import_module(f"shared.messages.{_module.name}")


def _descendants(kind: type[Any]) -> list[type[Any]]:
    return [descendant for child in kind.__subclasses__() for descendant in (child, *_descendants(child))]


def _tag(kind: type[Message]) -> str:
    return str(kind.__struct_config__.tag)


STRUCTS = sorted(
    {kind for kind in _descendants(msgspec.Struct) if kind.__module__.startswith("shared.messages.")},
    key=lambda kind: (kind.__module__, kind.__qualname__),
)
KINDS: list[type[Message]] = [kind for kind in STRUCTS if issubclass(kind, Message) and kind is not Message]
MESSAGES = {_tag(kind): kind for kind in KINDS}


def _is_kept(recorded: Any, again: Any) -> bool:
    """Whether everything recorded is there again; a message may have grown meanwhile."""
    if isinstance(recorded, dict):
        return isinstance(again, dict) and all(key in again and _is_kept(recorded[key], again[key]) for key in recorded)
    if isinstance(recorded, list):
        return isinstance(again, list) and len(recorded) == len(again) and all(map(_is_kept, recorded, again))
    return bool(recorded == again)


def test_every_message_has_an_example_and_a_tag_of_its_own() -> None:
    assert len(MESSAGES) == len(KINDS) > 0
    assert set(MESSAGES) == {json.loads(path.read_text())["type"] for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_recorded_example_still_decodes_to_the_same_content(path: Path) -> None:
    recorded = json.loads(path.read_text())
    assert path.name.startswith(recorded["type"])
    message = decode(path.read_bytes(), MESSAGES[recorded["type"]])
    assert _is_kept(recorded, json.loads(encode(message)))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_unknown_field_is_skipped_and_another_tag_rejected(path: Path) -> None:
    recorded = json.loads(path.read_text())
    kind = MESSAGES[recorded["type"]]
    grown = json.dumps({**recorded, "of_a_later_version": [1]}).encode()
    assert decode(grown, kind) == decode(path.read_bytes(), kind)
    with pytest.raises(Unreadable):
        decode(json.dumps({**recorded, "type": "other.v1"}).encode(), kind)


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_what_crosses_the_bus_is_frozen_and_keyword_only(kind: type[msgspec.Struct]) -> None:
    config = kind.__struct_config__
    assert config.frozen
    assert kind.__match_args__ == ()  # nothing positional
    assert not config.forbid_unknown_fields


@pytest.mark.parametrize("kind", MESSAGES.values(), ids=_tag)
def test_a_message_is_tagged_with_its_name_and_version(kind: type[Message]) -> None:
    name, _, version = _tag(kind).rpartition(".v")
    assert name.isidentifier()
    assert version.isdecimal()
    assert kind.__struct_config__.tag_field == "type"


@pytest.mark.parametrize(
    ("recorded", "again", "kept"),
    [
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2, "c": 3}], "d": 4}, True),
        ({"a": 1}, {}, False),
        ({"a": 1}, {"a": 2}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": {"b": 1}}, {"a": None}, False),
    ],
)
def test_recorded_content_is_compared_field_by_field(recorded: Any, again: Any, kept: bool) -> None:
    assert _is_kept(recorded, again) is kept
