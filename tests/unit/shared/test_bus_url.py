"""A malformed URL of the bus is reported in one line, without its password."""

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
async def test_a_malformed_bus_url_is_reported_without_its_password(url: str) -> None:
    with pytest.raises(Misconfigured, match="no URL of a bus") as error:
        async with connect(url, name="test", wait=1.0):
            pass
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("url", ["nats://127.0.0.1:4222", "127.0.0.1:4222", "nats", "tls://u:p%23@[::1]:4222"])
def test_a_bus_url_that_the_client_accepts_passes(url: str) -> None:
    check_url(url)
