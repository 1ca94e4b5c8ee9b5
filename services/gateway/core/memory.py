"""How many bytes are held for clients, in total and for each key: request bodies, and responses until they are read."""

ANONYMOUS = ""
"""Owner of what came before its request's key was known: of one read of a connection at most.

It is counted but never refused, for it may be anybody's. Where it stays so, its connections are cut beyond a share."""


class Memory:
    """What is held, by owner. No owner can take what all the others need."""

    __slots__ = ("_by_owner", "most", "most_per_owner", "used")

    def __init__(self, most: int, most_per_owner: int) -> None:
        self.most = most
        self.most_per_owner = most_per_owner
        self.used = 0
        """Bytes of all owners."""
        self._by_owner: dict[str, int] = {}

    def used_by(self, owner: str) -> int:
        """Return the bytes that are held for one owner."""
        return self._by_owner.get(owner, 0)

    @property
    def crowded(self) -> bool:
        """Whether what is nobody's yet is more than one owner may have."""
        return self.used_by(ANONYMOUS) > self.most_per_owner

    def take(self, owner: str, size_bytes: int) -> bool:
        """Count so many bytes more. False: they are too many, and nothing was counted."""
        used = self._by_owner.get(owner, 0) + size_bytes
        if owner != ANONYMOUS and (used > self.most_per_owner or self.used + size_bytes > self.most):
            return False
        self._by_owner[owner] = used
        self.used += size_bytes
        return True

    def move(self, before: str, owner: str, size_bytes: int) -> bool:
        """Count bytes that are held for one owner for another. False: that one has no room, and nothing was moved."""
        if owner == before:
            return True
        used = self.used_by(owner) + size_bytes
        if owner != ANONYMOUS and (used > self.most_per_owner or self.used > self.most):
            return False
        self.give_back(before, size_bytes)
        self._by_owner[owner] = used
        self.used += size_bytes
        return True

    def give_back(self, owner: str, size_bytes: int) -> None:
        """Bytes that were taken have been released."""
        left = self._by_owner[owner] - size_bytes
        if left:
            self._by_owner[owner] = left
        else:
            del self._by_owner[owner]
        self.used -= size_bytes


class Held:
    """The bytes of one body or one response."""

    __slots__ = ("_memory", "owner", "size_bytes")

    def __init__(self, memory: Memory, owner: str = ANONYMOUS) -> None:
        self._memory = memory
        self.owner = owner
        self.size_bytes = 0

    def grow(self, size_bytes: int) -> bool:
        """Hold so many bytes more. False: there is no room, and they are not held."""
        if not self._memory.take(self.owner, size_bytes):
            return False
        self.size_bytes += size_bytes
        return True

    def move_to(self, owner: str) -> bool:
        """Its key is known now. False: that key has no room for it, and it stays where it is."""
        if self.size_bytes and not self._memory.move(self.owner, owner, self.size_bytes):
            return False
        self.owner = owner
        return True

    def release(self) -> None:
        """Nobody holds it any more."""
        if self.size_bytes:
            self._memory.give_back(self.owner, self.size_bytes)
            self.size_bytes = 0
