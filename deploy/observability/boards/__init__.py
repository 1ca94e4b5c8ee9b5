"""The dashboards, by the name of their file."""

from deploy.observability.boards.fleet import FLEET
from deploy.observability.boards.money import MONEY
from deploy.observability.boards.service import SERVICE

BOARDS = {"service": SERVICE, "fleet": FLEET, "money": MONEY}
