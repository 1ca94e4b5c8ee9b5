"""Makes the key file of each user of the bus."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.bus.access import BusAccess, seed_file
from shared.bus.permissions import NAMED, ROLES, Role
from shared.errors import Misconfigured
from shared.messages.codec import decode_text
from shared.runtime.suite_file import write_private

SEED_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class BusUser:
    """One user, whom the server knows by the public half of its key."""

    name: str
    role: Role
    public_key: str


def open_users(folder: Path, gateways: Sequence[str] = ("gateway",), machines: Sequence[str] = ()) -> list[BusUser]:
    """Return the bus's users, after making the key files that are missing: `<name>.nk`, for their owner alone.

    Raises:
        Misconfigured: the folder cannot be written, or a file in it is no key.
    """
    named: list[tuple[Role, str]] = [("gateway", name) for name in gateways]
    named += [("machine", name) for name in machines]
    named += [(role, role) for role in ROLES if role not in NAMED]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return [BusUser(name=name, role=role, public_key=_public_key(folder, name)) for role, name in named]
    except OSError as error:
        raise Misconfigured(f"{folder}: {error.strerror}: choose another folder for the keys") from error


def _public_key(folder: Path, name: str) -> str:
    import nkeys

    path = folder / f"{name}.nk"
    if not path.exists():
        seed = nkeys.encode_seed(secrets.token_bytes(SEED_BYTES), nkeys.PREFIX_BYTE_USER)
        write_private(path, seed_file(name, decode_text(seed)).encode())
    try:
        public: bytes = nkeys.from_seed(bytearray(BusAccess(urls=(), nkey_file=path).seed().encode())).public_key
    except (nkeys.NkeysError, ValueError) as error:
        raise Misconfigured(f"{path}: no seed of a user: remove it, and a new one is made") from error
    return decode_text(public)
