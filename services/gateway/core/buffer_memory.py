"""Bytes buffered for clients, in total and per key: request bodies, and responses until they are read."""

from dataclasses import dataclass, field

ANONYMOUS = ""
"""Owner of bytes whose key is not known yet: at most one read per connection.

They are counted but never rejected. Once they exceed one owner's share, connections that send more are cut."""


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
