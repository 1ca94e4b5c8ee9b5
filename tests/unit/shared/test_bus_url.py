"""What is no URL of a bus is told in a line, without its password."""

import pytest

from shared.bus.jetstream import connect
from shared.bus.jetstream_client import check_url
from shared.errors import Misconfigured


@pytest.mark.parametrize(
    "url",
    [
        "not a url",
        "nats://suite:TOPSECRET@127.0.0.1:port",
        "nats://suite:TOP#SECRET@127.0.0.1:4222",
        "nats://127.0.0.1:99999",
        "nats://[::1",
        "nats://",
        "http://127.0.0.1:4222",
    ],
)
async def test_what_is_no_url_of_a_bus_is_told(url: str) -> None:
    with pytest.raises(Misconfigured, match="no URL of a bus") as told:
        async with connect(url, name="test", wait=1.0):
            pass
    assert "SECRET" not in str(told.value)


@pytest.mark.parametrize("url", ["nats://127.0.0.1:4222", "127.0.0.1:4222", "nats", "tls://u:p%23@[::1]:4222"])
def test_what_the_client_takes_is_one(url: str) -> None:
    check_url(url)
