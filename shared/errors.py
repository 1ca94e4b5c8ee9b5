"""The errors that cross module boundaries, named by what the caller can do about them.

SpotinferenceError
├── Misconfigured        fix the configuration or the command line; the text says how
├── BusError
│   ├── BusUnavailable   try again later; the outcome is unknown
│   │   └── BusRefused   the bus is there, and does not let this user in: give it a key that is valid
│   └── Conflict         read and decide again; another writer was first
├── Unreadable           reject this data alone (in `shared.messages.codec`); the text says what is wrong with it
├── SchemaMismatch       run the version that the database's schema is for; the text names both
└── Rejected             the other side rejected the request; the text says why
"""


class SpotinferenceError(Exception):
    """Base of all errors."""


class Misconfigured(SpotinferenceError):
    """The configuration, the command line or the environment is wrong. The text names the place and the fix."""


class BusError(SpotinferenceError):
    """Base of the errors of the message bus."""


class BusUnavailable(BusError):
    """The bus did not answer in time. A publish may have been stored: repeat it with the same message id."""


class BusRefused(BusUnavailable):
    """The bus answers, and refuses this user: its key is no user's, or was replaced."""


class Conflict(BusError):
    """The key has changed since it was read, or already exists."""


class SchemaMismatch(SpotinferenceError):
    """The database's schema is of another version than this code. The text names both and the fix."""


class Rejected(SpotinferenceError):
    """A service rejected a request. The text is its reason."""
