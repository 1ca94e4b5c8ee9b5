"""What the meter's clients read while its database is down."""

from shared.bus.reply import Outage
from shared.database import DATABASE_ERRORS, describe

DATABASE_DOWN = Outage(DATABASE_ERRORS, "the ledger's database does not answer: try again later", describe)
