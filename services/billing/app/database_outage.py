"""What billing's clients read while its database is down."""

from shared.bus.reply import Outage
from shared.database import DATABASE_ERRORS, describe

DATABASE_DOWN = Outage(DATABASE_ERRORS, "billing's database does not answer: try again later", describe)
NOTHING_IMPORTED = Outage(
    DATABASE_ERRORS, "billing's database does not answer: nothing was imported; try again later", describe
)
