"""Sources of invoice files: a file, a folder or a prefix in S3. Every call blocks: call them in a thread."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from services.billing.ports import FileSource
from shared.config.invoices import InvoiceSource
from shared.errors import Rejected

MAX_FILES = 100_000
"""Below a folder or a prefix."""
MAX_MANIFEST_BYTES = 16 * 1024**2
MAX_FILE_BYTES = 64 * 1024**3
CHUNK = 1024**2
SCHEME = "s3://"
CALL_SECONDS = 60.0
ATTEMPTS = 5


def open_file_source(url: str, *, region: str | None = None, endpoint_url: str | None = None) -> FileSource:
    """Open a path or an `s3://` URL. `region` and `endpoint_url` are for S3."""
    if not url:
        raise Rejected("expected a file, a folder or s3://bucket/prefix, got an empty name")
    return S3Prefix(url, region, endpoint_url) if url.startswith(SCHEME) else Folder(Path(url))


def open_configured_source(source: InvoiceSource) -> FileSource:
    """Open a source of the configuration."""
    return open_file_source(source.url, region=source.region, endpoint_url=source.endpoint_url)


class Folder:
    """A folder on this host, or a single file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _readable(path):
            self._root = path if path.is_dir() else path.parent

    def list_files(self) -> dict[str, str]:
        """An unreadable file is an error and not skipped: the delivery would seem complete without it."""
        files: dict[str, str] = {}
        for path in self._paths():
            with _readable(path):
                facts = path.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise Rejected(f"{path}: not a regular file but {_kind(facts.st_mode)}: save its content as a file")
            files[path.relative_to(self._root).as_posix()] = f"{facts.st_size} {facts.st_mtime_ns}"
        return files

    def _paths(self) -> list[Path]:
        """Return the file, or all files below the folder that are not hidden."""
        if self._root != self._path:
            return [self._path]
        paths: list[Path] = []
        for folder, folders, files in os.walk(self._path, onerror=_refuse):
            here = Path(folder)
            links = [name for name in folders if (here / name).is_symlink()]
            paths += (here / name for name in (*links, *files) if not name.startswith((".", "_")))
            if len(paths) > MAX_FILES:
                raise Rejected(f"{self._path}: more than {MAX_FILES} files: name a folder with fewer")
        return sorted(paths)

    def read(self, name: str) -> bytes:
        with _readable(self._root / name), (self._root / name).open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES)

    def fetch(self, name: str, into: Path) -> Path:
        del into
        with _readable(self._root / name):
            size = (self._root / name).stat().st_size
        if size > MAX_FILE_BYTES:
            raise Rejected(f"{self._root / name} is larger than {MAX_FILE_BYTES} bytes: export it in parts")
        return self._root / name


class S3Prefix:
    """The objects whose keys begin with a prefix. Credentials come from boto3's usual chain."""

    def __init__(self, url: str, region: str | None, endpoint_url: str | None) -> None:
        parts = urlsplit(url)
        self._bucket, self._prefix = parts.netloc, parts.path.removeprefix("/")
        if not self._bucket:
            raise Rejected(f"{url}: expected s3://bucket/prefix")
        self._url = url
        import boto3
        from botocore.config import Config

        retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
        config = Config(connect_timeout=CALL_SECONDS, read_timeout=CALL_SECONDS, retries=retries)
        with self._rejecting_s3_errors():
            self._s3: Any = boto3.client("s3", region_name=region, endpoint_url=endpoint_url, config=config)
        self._versions: dict[str, str] = {}

    def list_files(self) -> dict[str, str]:
        files: dict[str, str] = {}
        with self._rejecting_s3_errors():
            for answer in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix):
                for item in answer.get("Contents", ()):
                    if not item["Key"].endswith("/"):
                        files[self._name(item["Key"])] = item["ETag"]
                if len(files) > MAX_FILES:
                    raise Rejected(f"{self._url}: more than {MAX_FILES} objects: name a longer prefix")
        self._versions = files
        return dict(files)

    def read(self, name: str) -> bytes:
        with self._rejecting_s3_errors(name):
            return bytes(self._object(name)["Body"].read(MAX_MANIFEST_BYTES))

    def fetch(self, name: str, into: Path) -> Path:
        """Copy the object to `into`. Raises `Rejected` if it has changed since it was listed."""
        with self._rejecting_s3_errors(name), into.open("wb") as file:
            answer = self._object(name)
            if answer["ContentLength"] > MAX_FILE_BYTES:
                raise Rejected(f"{self._url}: {name} is larger than {MAX_FILE_BYTES} bytes: export it in parts")
            for chunk in answer["Body"].iter_chunks(CHUNK):
                file.write(chunk)
        return into

    def _object(self, name: str) -> Any:
        return self._s3.get_object(Bucket=self._bucket, Key=self._key(name), IfMatch=self._versions[name])

    def _name(self, key: str) -> str:
        """Return the name relative to the prefix's last folder."""
        return key[len(self._prefix.rpartition("/")[0] + "/") :] if "/" in self._prefix else key

    def _key(self, name: str) -> str:
        return f"{self._prefix.rpartition('/')[0]}/{name}" if "/" in self._prefix else name

    @contextmanager
    def _rejecting_s3_errors(self, name: str = "") -> Iterator[None]:
        import botocore.exceptions

        try:
            yield
        except botocore.exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "unknown")
            if code in ("PreconditionFailed", "412"):
                raise Rejected(f"{self._url}: {name} changed while it was fetched: try again") from error
            raise Rejected(f"{self._url}: S3 refused ({code}): {name or 'listing'}") from error
        except botocore.exceptions.BotoCoreError as error:
            raise Rejected(f"{self._url}: {error}") from error


def _kind(mode: int) -> str:
    return "a link to a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"


def _refuse(error: OSError) -> NoReturn:
    raise Rejected(f"{error.filename}: unreadable: {error.strerror}") from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Rejected(f"{path}: unreadable: {error.strerror}") from error
