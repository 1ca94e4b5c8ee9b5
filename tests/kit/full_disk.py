"""A disk that is full for some processes: the kernel refuses every write of theirs to a file, and takes it all back.

Works for every user and on every file system, unlike a small volume, which needs rights to mount one. The error is
`EFBIG` where a full disk's is `ENOSPC`; no part tells them apart.
"""

import contextlib
import resource
from collections.abc import Iterable

UNLIMITED = resource.RLIM_INFINITY


def fill(processes: Iterable[int]) -> None:
    _limit(processes, 0)


def free(processes: Iterable[int]) -> None:
    """A parent comes before its children: those that it starts have its limit."""
    _limit(processes, UNLIMITED)


def _limit(processes: Iterable[int], most: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
            soft = most if hard == UNLIMITED else min(most, hard) if most != UNLIMITED else hard
            resource.prlimit(process, resource.RLIMIT_FSIZE, (soft, hard))
