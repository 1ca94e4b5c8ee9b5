"""The SHA-256 of a file."""

import hashlib
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    """Return the digest in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
