"""How many bytes of request bodies the process holds, of all requests together."""


class Budget:
    """A number with a bound."""

    __slots__ = ("most", "used")

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0

    def take(self, size: int) -> bool:
        """Whether so many bytes more are allowed."""
        if self.used + size > self.most:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        self.used -= size
