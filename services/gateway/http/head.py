"""The bytes of answers' heads, and of a piece in an answer whose length is not known before its end."""

from email.utils import formatdate
from http import HTTPStatus

LAST_PIECE = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def status_line(status: int) -> bytes:
    return _LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def every_answer(now: float) -> bytes:
    """What each answer has; made anew each second."""
    return b"Server: spotinference\r\nDate: %b\r\n" % formatdate(now, usegmt=True).encode()
