"""Documents against the strict schemas of Kubernetes, and of the kinds that others define."""

import json
from functools import cache
from importlib import resources

import jsonschema_rs
import msgspec

from tests.deploy.manifests import Document, Manifests, place_of
from tests.deploy.rules.custom_kinds import CUSTOM_KINDS

VERSIONS = ("1.35.0", "1.36.0", "1.37.0")
"""The last three of Kubernetes. A version that `kubernetes-validate` does not carry is an error, not a pass."""
SCHEMAS = resources.files("kubernetes_validate") / "kubernetes-json-schema"


def schemas(manifests: Manifests) -> list[str]:
    """Return unknown kinds, unknown fields, and fields of a wrong type, in any of the versions."""
    faults: dict[str, None] = {}
    for document in manifests.documents:
        for fault in _document_faults(document):
            faults[f"{place_of(document)}: {fault}"] = None
    return list(faults)


def _document_faults(document: Document) -> list[str]:
    api, kind = str(document["apiVersion"]), str(document["kind"])
    if (api, kind) in CUSTOM_KINDS:
        try:
            msgspec.convert(document, CUSTOM_KINDS[api, kind])
        except msgspec.ValidationError as error:
            return [str(error)]
        return []
    faults = []
    for version in VERSIONS:
        validator = _validator(version, api, kind)
        if validator is None:
            return [f"{api} {kind} is unknown to Kubernetes {version}, and no kind of `custom_kinds`"]
        faults += [
            f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in _errors(validator, document)
        ]
    return faults


def _errors(validator: jsonschema_rs.Validator, document: Document) -> list[jsonschema_rs.ValidationError]:
    return list(validator.iter_errors(document))


@cache
def _validator(version: str, api: str, kind: str) -> jsonschema_rs.Validator | None:
    folder = SCHEMAS / f"v{version}-local-strict"
    if not folder.is_dir():
        raise LookupError(f"kubernetes-validate has no schemas of Kubernetes {version}: upgrade it")
    group, _, rest = api.rpartition("/")
    stem = f"{kind.lower()}-{group.partition('.')[0]}-{rest}" if group else f"{kind.lower()}-{rest}"
    file = folder / f"{stem}.json"
    if not file.is_file():
        return None
    return jsonschema_rs.Draft202012Validator(json.loads(file.read_text("utf-8")), registry=_registry(version))


@cache
def _registry(version: str) -> jsonschema_rs.Registry:
    definitions = json.loads((SCHEMAS / f"v{version}-local-strict" / "_definitions.json").read_text("utf-8"))
    return jsonschema_rs.Registry([(definitions["$id"], definitions)])
