"""Which variables of our environment a child gets: what every program needs, and the secrets that it uses itself."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

COMMON = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "HOSTNAME", "TERM", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LC_*"),
    *("LD_LIBRARY_PATH", "PYTHON*", "VIRTUAL_ENV", "XDG_*", "SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF"),
)
SERVICE = (*COMMON, "SPOTINFERENCE_CONFIG", "SPOTINFERENCE_BUS_URL", "SPOTINFERENCE_BUS_URL_FILE")
DATABASE = ("PG*",)
"""What asyncpg reads beside the URL, passwords among it."""
CLOUDS = (
    *("AWS_*", "BOTO_CONFIG", "HYPERSTACK_API_KEY", "HYPERSTACK_API_KEY_FILE", "REQUESTS_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
)
"""A proxy's URL may hold a password, and only calls to clouds go through one."""

CHILDREN: Mapping[str, tuple[str, ...]] = {
    "bus": COMMON,
    "gateway": SERVICE,
    "meter": (*SERVICE, *DATABASE),
    "billing": (*SERVICE, *DATABASE, *CLOUDS),
}
WITHHELD_FROM_WAKER = (*DATABASE, "SPOTINFERENCE_KEY", "SPOTINFERENCE_KEY_FILE")
"""The waker gets the rest, for its engines' sake: what these read is known to them alone. It hands them no secret."""


def environment_of(child: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables for the child of that name."""
    if child == "waker":
        return {name: value for name, value in environment.items() if not _matches(name, WITHHELD_FROM_WAKER)}
    return {name: value for name, value in environment.items() if _matches(name, CHILDREN[child])}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
