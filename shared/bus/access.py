"""How a process reaches the bus: the servers' URLs, the CA that their certificates are from, and the user's key."""

import base64
import ssl
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from shared.bus.permissions import inbox_prefix
from shared.bus.subjects import is_plain
from shared.errors import Misconfigured
from shared.messages.codec import Unreadable, decode, decode_text

USER = "{user}"
"""In the path of a key file: the service's name, `operator` or `setup`."""
NAME_MARK = "# user: "
"""Starts the line of a seed file that has the user's name."""
SEED_MARK = "SU"


@dataclass(frozen=True, kw_only=True)
class BusAccess:
    """The files are read at each connection, so a changed key needs no restart."""

    urls: tuple[str, ...]
    ca_file: Path | None = None
    creds_file: Path | None = None
    nkey_file: Path | None = None
    url_file: Path | None = None
    """The file that the URLs with their password are from."""
    role: str = ""
    """The user's name where its key does not say it."""

    @staticmethod
    def of(url: str) -> "BusAccess":
        """Return the access to the servers of a URL, or of several with commas between them."""
        return BusAccess(urls=tuple(part.strip() for part in url.split(",") if part.strip()))

    def for_role(self, role: str) -> "BusAccess":
        """Return the access of a service, `operator` or `setup`: its own key file, where the path says so."""
        return replace(
            self, role=role, creds_file=_of_role(self.creds_file, role), nkey_file=_of_role(self.nkey_file, role)
        )

    def shown(self) -> str:
        """Return the URLs without users and passwords, as they may be logged."""
        return ", ".join(map(without_secret, self.urls))

    @property
    def user(self) -> str | None:
        """The user's name on the bus; None if the bus has no users.

        Raises:
            Misconfigured: its key file cannot be read.
        """
        if self.nkey_file is not None:
            name = _name_in_seed_file(_text(self.nkey_file)) or self.role
        elif self.creds_file is not None:
            name = _name_in_creds(_text(self.creds_file)) or self.role
        else:
            name = unquote(urlsplit(self.urls[0]).username or "")
            return name if is_plain(name) else None
        if not is_plain(name):
            file = self.nkey_file or self.creds_file
            raise Misconfigured(f"{file}: user {name!r} of the bus: use letters, digits, - and _")
        return name

    def seed(self) -> str:
        """Return the seed in `nkey_file`. Raises `Misconfigured` if there is none."""
        assert self.nkey_file is not None
        for line in _text(self.nkey_file).splitlines():
            if line.strip().startswith(SEED_MARK):
                return line.strip()
        raise Misconfigured(f"{self.nkey_file}: no seed of a user: make one with `spotinference nats-config`")

    def options(self) -> dict[str, Any]:
        """Return the client's arguments. Raises `Misconfigured` for a file that cannot be used."""
        options: dict[str, Any] = {}
        if self.ca_file is not None:
            try:
                options["tls"] = ssl.create_default_context(cafile=self.ca_file)
            except OSError as error:
                raise Misconfigured(f"[bus] ca_file {self.ca_file}: {error}") from error
        if self.nkey_file is not None:
            options["nkeys_seed_str"] = self.seed()
        elif self.creds_file is not None:
            _text(self.creds_file)
            options["user_credentials"] = self.creds_file
        elif self.url_file is not None and urlsplit(self.urls[0]).password:
            options |= {"user": lambda: self._login()[0], "password": lambda: self._login()[1]}
        if user := self.user:
            options["inbox_prefix"] = inbox_prefix(user)
        return options

    def _login(self) -> tuple[str | None, str | None]:
        """Return user and password, as the URL in `url_file` has them now or else had them at the start."""
        assert self.url_file is not None
        url = self.urls[0]
        with suppress(Misconfigured, ValueError, IndexError):
            new = BusAccess.of(_text(self.url_file)).urls[0]
            url = new if urlsplit(new).password else url
        parts = urlsplit(url)
        return parts.username, parts.password


def _of_role(path: Path | None, role: str) -> Path | None:
    return None if path is None else Path(str(path).replace(USER, role))


def without_secret(url: str) -> str:
    """Return the URL without user and password, as it may be logged."""
    scheme, _, rest = url.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def seed_file(user: str, seed: str) -> str:
    """Return the contents of a user's key file. Tools of NATS read it too."""
    return f"{NAME_MARK}{user}\n{seed}\n"


def _name_in_seed_file(text: str) -> str | None:
    lines = (line.removeprefix(NAME_MARK).strip() for line in text.splitlines() if line.startswith(NAME_MARK))
    return next(lines, None)


class _Claims(msgspec.Struct, frozen=True):
    name: str = ""


def _name_in_creds(text: str) -> str | None:
    """Return the name in the token of a credentials file."""
    lines = text.splitlines()
    try:
        token = lines[next(i for i, line in enumerate(lines) if "BEGIN NATS USER JWT" in line) + 1]
        claims = token.split(".")[1]
        return decode(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)), _Claims).name or None
    except (StopIteration, IndexError, ValueError):
        return None


def _text(path: Path) -> str:
    try:
        return decode_text(path.read_bytes())
    except (OSError, Unreadable) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Misconfigured(f"the key file of the bus's user, {path}: {reason}") from error
