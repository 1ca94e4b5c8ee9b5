"""How many bytes are held for clients, in total and for each key: request bodies, and responses until they are read."""

from dataclasses import dataclass, field

ANONYMOUS = ""
"""Owner of what came before its request's key was known: of one read of a connection at most.

It is counted but never refused, for it may be anybody's. Where it stays so, its connections are cut beyond a share."""


@dataclass(slots=True)
class BufferMemory:
    """What is held, by owner. No owner can take what all the others need."""

    max_bytes: int
    max_bytes_per_owner: int
    used: int = 0
    """Bytes of all owners."""
    _by_owner: dict[str, int] = field(default_factory=dict)

    def used_by(self, owner: str) -> int:
        """Return the bytes that are held for one owner."""
        return self._by_owner.get(owner, 0)

    @property
    def is_crowded(self) -> bool:
        """Whether what is nobody's yet is more than one owner may have."""
        return self.used_by(ANONYMOUS) > self.max_bytes_per_owner

    def has_room(self, owner: str, size_bytes: int) -> bool:
        """Whether so many bytes more may be held for the owner."""
        if self.used + size_bytes <= self.max_bytes and self.used_by(owner) + size_bytes <= self.max_bytes_per_owner:
            return True
        return owner == ANONYMOUS

    def add(self, owner: str, size_bytes: int) -> None:
        """Count so many bytes more, or less where negative."""
        self.used += size_bytes
        used = self.used_by(owner) + size_bytes
        if used:
            self._by_owner[owner] = used
        else:
            self._by_owner.pop(owner, None)


@dataclass(slots=True)
class BufferedBytes:
    """The bytes of one body or one response."""

    _memory: BufferMemory
    owner: str = ANONYMOUS
    size_bytes: int = 0

    def grow(self, size_bytes: int) -> bool:
        """Hold so many bytes more. False: there is no room, and they are not held."""
        if not self._memory.has_room(self.owner, size_bytes):
            return False
        self._memory.add(self.owner, size_bytes)
        self.size_bytes += size_bytes
        return True

    def move_to(self, owner: str) -> bool:
        """Its key is known now. False: that key has no room for it, and it stays where it is."""
        if owner == self.owner or not self.size_bytes:
            self.owner = owner
            return True
        self._memory.add(self.owner, -self.size_bytes)
        fits = self._memory.has_room(owner, self.size_bytes)
        self.owner = owner if fits else self.owner
        self._memory.add(self.owner, self.size_bytes)
        return fits

    def release(self) -> None:
        """Nobody holds it any more."""
        if self.size_bytes:
            self._memory.add(self.owner, -self.size_bytes)
            self.size_bytes = 0
