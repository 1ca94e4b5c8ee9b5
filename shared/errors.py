"""The errors that travel between rooms, named by what the one who catches them can do.

SpotinferenceError
├── Misconfigured        fix the configuration or the command line: the text says how
├── BusError
│   ├── BusUnavailable   try again later: nothing is known to have happened
│   └── Conflict         read again, decide again: somebody wrote first
├── Unreadable           reject these data alone (in `shared.messages.codec`): the text says what is wrong with them
├── DatabaseUnavailable  try again later: the database did not answer
└── Rejected             the other side understood and said no: the text says why
"""


class SpotinferenceError(Exception):
    """Root of the tree."""


class Misconfigured(SpotinferenceError):
    """The configuration, the command line or the environment is wrong. The text names the place and the fix."""


class BusError(SpotinferenceError):
    """Something about the message bus."""


class BusUnavailable(BusError):
    """No answer in time. Whether a publish was stored is unknown: repeat it with the same message id."""


class Conflict(BusError):
    """The key changed since it was read, or exists already."""


class DatabaseUnavailable(SpotinferenceError):
    """The database stayed away for longer than a start may take. The text names it, without its password."""


class Rejected(SpotinferenceError):
    """A service answered a request with its reason for not doing it."""
