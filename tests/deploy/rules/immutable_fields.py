"""Fields that the API server never lets change, against those that are recorded.

An operator who applies a release that changes one gets an error, and has to delete the object, a volume's data with it.
`python -m tests.deploy.rules.immutable_fields` prints the record.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.deploy.manifests import RENDERED, Document, Manifests, load, place_of

RECORD = Path(__file__).parents[1] / "immutable_fields.json"
FIELDS = {
    "Deployment": ("selector",),
    "StatefulSet": ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"),
}


def fields_of(manifests: Manifests) -> dict[str, Any]:
    """Return what cannot be changed, by object. Of a Job that is a digest of its template."""
    fixed: dict[str, Any] = {}
    for document in manifests.documents:
        if keys := FIELDS.get(document["kind"]):
            fixed[place_of(document)] = {key: document["spec"].get(key) for key in keys}
        elif document["kind"] == "Job":
            fixed[place_of(document)] = _digest(document)
    return fixed


def _digest(document: Document) -> str:
    return hashlib.sha256(json.dumps(document["spec"]["template"], sort_keys=True).encode()).hexdigest()


def immutable_fields(manifests: Manifests) -> list[str]:
    """Return changed fields, and objects that are not recorded."""
    record = json.loads(RECORD.read_text("utf-8"))[manifests.overlay]
    return [
        f"{place}: has another {'template' if place.startswith('Job') else 'selector or claim'} than recorded, which "
        "cannot be changed in a cluster: undo it, give the object another name (a Job: the next release), or, "
        "if no release has it yet, record it"
        for place, fields in fields_of(manifests).items()
        if record.get(place) != fields
    ]


if __name__ == "__main__":
    print(json.dumps({name: fields_of(load(name)) for name in RENDERED}, indent=1, sort_keys=True))
