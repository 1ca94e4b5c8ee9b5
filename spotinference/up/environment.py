"""The environment variables that each child gets: what every program needs, and the secrets that it uses itself."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from services.waker.adapters.engine_environment import PASSED as ENGINE
from shared.config.sections import Config

COMMON = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "HOSTNAME", "TERM", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LC_*"),
    *("LD_LIBRARY_PATH", "PYTHON*", "VIRTUAL_ENV", "XDG_*", "SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF"),
)
SERVICE = (
    *COMMON,
    *("SPOTINFERENCE_CONFIG", "SPOTINFERENCE_BUS_URL", "SPOTINFERENCE_BUS_URL_FILE", "SPOTINFERENCE_LOG_LEVEL"),
)
DATABASE = ("PG*",)
"""What asyncpg reads beside the URL, passwords among it."""
IDENTITY = ("GITHUB_CLIENT_SECRET", "GITHUB_CLIENT_SECRET_FILE", "OIDC_CLIENT_SECRET", "OIDC_CLIENT_SECRET_FILE")
CLOUDS = (
    *("AWS_*", "BOTO_CONFIG", "HYPERSTACK_API_KEY", "HYPERSTACK_API_KEY_FILE", "REQUESTS_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
)
"""A proxy's URL may hold a password, and only calls to clouds go through one."""

CHILDREN: Mapping[str, tuple[str, ...]] = {
    "bus": COMMON,
    "gateway": SERVICE,
    "meter": (*SERVICE, *DATABASE),
    "site": (*SERVICE, *DATABASE, *IDENTITY),
    "billing": (*SERVICE, *DATABASE, *CLOUDS),
    # It passes on what engines need, and what the configuration names for one of them.
    "waker": (*SERVICE, *CLOUDS, *ENGINE),
}


def child_environment(child: str, environment: Mapping[str, str], config: Config) -> dict[str, str]:
    """Return the environment variables for a child."""
    patterns = CHILDREN[child]
    if child == "waker":
        patterns += tuple(name for machine in config.machine for name in machine.environment)
    return {
        name: value for name, value in environment.items() if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
