"""The part of a NATS server's configuration that says who may do what."""

import json
from collections.abc import Iterable, Sequence

from shared.bus.permissions import permissions
from spotinference.nats_config.users import BusUser


def authorization(users: Iterable[BusUser]) -> str:
    """Return the block `authorization`, with the users of the server's global account."""
    return "authorization {\n  users: [\n" + "".join(map(_user, users)) + "  ]\n}\n"


def _user(user: BusUser) -> str:
    may = permissions(user.role, user.name)
    deny = f"          deny: {_list(may.deny)}\n" if may.deny else ""
    return (
        f"    {{ # {user.name}\n"
        f"      nkey: {user.public_key}\n"
        "      permissions: {\n"
        "        publish: {\n"
        f"          allow: {_list(may.publish)}\n{deny}"
        "        }\n"
        f"        subscribe: {{\n          allow: {_list(may.subscribe)}\n        }}\n"
        "      }\n"
        "    }\n"
    )


def _list(subjects: Sequence[str]) -> str:
    return "[\n" + "".join(f"            {json.dumps(subject)}\n" for subject in subjects) + "          ]"
