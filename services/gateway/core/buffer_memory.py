"""Bytes buffered for clients, in total and per key: request bodies, and responses until they are read."""

from dataclasses import dataclass, field

from shared.config.sections import GatewaySection

ANONYMOUS = ""
"""Owner of bytes whose key is not known yet: at most one read per connection.

They are counted but never rejected. Once they exceed one owner's share, connections that send more are cut."""


UNLIMITED_BYTES = 1024 * 1024 * 1024
"""The default where no limit is known, and the highest one."""
PER_OWNER_BYTES = 256 * 1024 * 1024
"""The highest default for one owner."""
OWN_BYTES = 96 * 1024 * 1024
"""What a process needs beside its buffers: twice its idle size."""


def buffer_bounds(settings: GatewaySection, processes: int, memory_limit: int | None) -> tuple[int, int]:
    """Return how many bytes one process may buffer in total and for one owner."""
    most, of_key, least = settings.max_buffered_bytes, settings.max_buffered_bytes_per_key, settings.max_body_bytes
    most = default_max_bytes(memory_limit, processes, least) if most is None else most
    return most, default_max_bytes_per_owner(most, least) if of_key is None else of_key


def default_max_bytes(memory_limit: int | None, processes: int, least: int) -> int:
    """Return how much one of the `processes` that share a memory limit may buffer; never less than `least`.

    It is half of what the limit leaves to a process: a body exists twice for a moment while it is changed.
    """
    if memory_limit is None:
        return max(least, UNLIMITED_BYTES)
    return max(least, min(UNLIMITED_BYTES, (memory_limit // processes - OWN_BYTES) // 2))


def default_max_bytes_per_owner(max_bytes: int, least: int) -> int:
    """Return how much one owner may use of `max_bytes`; never less than `least`."""
    return max(least, min(PER_OWNER_BYTES, max_bytes // 4))


@dataclass(slots=True)
class BufferMemory:
    """Bytes by owner. Per-owner bounds keep one owner from using what all the others need."""

    max_bytes: int
    max_bytes_per_owner: int
    used: int = 0
    """Bytes of all owners."""
    _by_owner: dict[str, int] = field(default_factory=dict)

    def used_by(self, owner: str) -> int:
        """Return the bytes buffered for one owner."""
        return self._by_owner.get(owner, 0)

    @property
    def is_crowded(self) -> bool:
        """Whether bytes without a known key exceed one owner's share."""
        return self.used_by(ANONYMOUS) > self.max_bytes_per_owner

    def has_room(self, owner: str, size_bytes: int) -> bool:
        """Return whether `size_bytes` more may be buffered for the owner."""
        if self.used + size_bytes <= self.max_bytes and self.used_by(owner) + size_bytes <= self.max_bytes_per_owner:
            return True
        return owner == ANONYMOUS

    def add(self, owner: str, size_bytes: int) -> None:
        """Count `size_bytes` more, or fewer if negative."""
        self.used += size_bytes
        used = self.used_by(owner) + size_bytes
        if used:
            self._by_owner[owner] = used
        else:
            self._by_owner.pop(owner, None)


@dataclass(slots=True)
class BufferedBytes:
    """The buffered bytes of one body or one response."""

    _memory: BufferMemory
    owner: str = ANONYMOUS
    size_bytes: int = 0

    def grow(self, size_bytes: int) -> bool:
        """Count `size_bytes` more; return False, and count nothing, if there is no room."""
        if not self._memory.has_room(self.owner, size_bytes):
            return False
        self._memory.add(self.owner, size_bytes)
        self.size_bytes += size_bytes
        return True

    def move_to(self, owner: str) -> bool:
        """Charge the bytes to the key that is now known; return False, and leave them, if that key has no room."""
        if owner == self.owner or not self.size_bytes:
            self.owner = owner
            return True
        self._memory.add(self.owner, -self.size_bytes)
        fits = self._memory.has_room(owner, self.size_bytes)
        self.owner = owner if fits else self.owner
        self._memory.add(self.owner, self.size_bytes)
        return fits

    def release(self) -> None:
        """Stop counting the bytes; a second call does nothing."""
        if self.size_bytes:
            self._memory.add(self.owner, -self.size_bytes)
            self.size_bytes = 0
