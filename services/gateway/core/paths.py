"""The path in a request's target."""

from collections.abc import Collection


def normalize(target: str) -> str:
    """Return the path of a target, which may be a whole URL and may have a query.

    Doubled and trailing slashes are dropped. Escapes stay: `%2F` does not separate parts of the path.
    """
    if not target.startswith("/"):
        _, separator, rest = target.partition("://")
        target = f"/{rest.partition('/')[2]}" if separator else target
    path = target.partition("?")[0]
    return "/" + "/".join(part for part in path.split("/") if part) if path.startswith("/") else path


def suggest_path(path: str, known: Collection[str]) -> str | None:
    """Return the known path that differs only by a missing or doubled `/v1`, else None."""
    candidates = (f"/v1{path}", path.removeprefix("/v1") if path.startswith("/v1/v1/") else "")
    return next((candidate for candidate in candidates if candidate in known), None)
