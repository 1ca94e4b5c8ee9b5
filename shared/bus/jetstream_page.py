"""Reads a stream of any size page by page, and how large it is, without touching its durable consumers."""

from datetime import UTC, datetime
from uuid import uuid4

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from shared.bus.jetstream_pull import Pull
from shared.bus.jetstream_watch import unavailable
from shared.bus.ports import Page, Received, StreamSize
from shared.bus.topology import Stream

INACTIVE_SECONDS = 30.0
"""The server removes a page's consumer that could not be deleted after this."""


async def read_size(js: JetStreamContext, stream: Stream) -> StreamSize:
    """Raises `BusUnavailable`."""
    async with unavailable(f"size of {stream.name}"):
        info = await js.stream_info(stream.name)
    most = info.config.max_bytes
    return StreamSize(info.state.bytes, most if most and most > 0 else None)


async def read_page(
    client: Client,
    js: JetStreamContext,
    stream: Stream,
    *,
    after: int,
    since: float | None,
    most: int,
    wait: float,
) -> Page:
    """Read one page, as described at `Bus.page`. `TimeoutError` if the server has messages and sends none."""
    end = (await js.stream_info(stream.name)).state.last_seq
    consumer = await js.add_consumer(stream.name, _from(stream.subjects[0], after, since))
    name, waiting = consumer.name, consumer.num_pending or 0
    pull = Pull(client, stream.name, name)
    try:
        await pull.start()
        messages = await pull.fetch(min(most, waiting), wait) if waiting else []
    finally:
        await pull.stop()
        await js.delete_consumer(stream.name, name)
    if waiting and not messages:
        raise TimeoutError(f"{waiting} messages are stored and none arrived within {wait:g} s")
    last = messages[-1].metadata.sequence.stream if messages else end
    return Page([Received(m.subject, m.data) for m in messages], last, end)


def _from(subject: str, after: int, since: float | None) -> ConsumerConfig:
    config = ConsumerConfig(
        name=uuid4().hex,
        filter_subject=subject,
        ack_policy=AckPolicy.NONE,
        deliver_policy=DeliverPolicy.ALL,
        inactive_threshold=INACTIVE_SECONDS,
    )
    if after:
        config.deliver_policy, config.opt_start_seq = DeliverPolicy.BY_START_SEQUENCE, after + 1
    elif since is not None:
        config.deliver_policy = DeliverPolicy.BY_START_TIME
        config.opt_start_time = datetime.fromtimestamp(max(0.0, since), UTC)
    return config
