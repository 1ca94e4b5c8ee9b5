"""SIGHUP: the gateway follows new tiers, machines and models without a drain."""

import asyncio
import signal

import openai
import pytest

from tests.integration.gateway.conftest import Front
from tests.integration.gateway.hostile import Opened
from tests.integration.gateway.test_gateway import ASK, text_of
from tests.kit.scripted_engine import NAME, Script, ScriptedEngine, scripted
from tests.kit.waiting import until

ADDED = f"""
[[tier]]
name = "third"
provider = "static"
[[machine]]
id = "m3"
tier = "third"
endpoint = "{{endpoint}}"
[[model]]
name = "new/model"
served_as = "{NAME}"
lineup = ["third"]
"""


async def reloaded(front: Front, event: str = "config_reloaded", times: int = 1) -> None:
    """Send SIGHUP, and return once the log has this event so often."""
    assert front.service.process is not None
    front.service.process.send_signal(signal.SIGHUP)
    await until(lambda: asyncio.sleep(0, front.service.log.read_text().count(event)), lambda count: count >= times)


async def models(front: Front) -> list[str]:
    return [model.id for model in (await front.sdk.models.list()).data]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_new_model_is_served_and_an_old_one_gone_without_a_drain(
    opened: Opened, scripted_engine: ScriptedEngine, workers: int
) -> None:
    front = await opened(f"workers = {workers}")
    config = front.folder / "spotinference.toml"
    before = config.read_text()
    async with scripted() as third:
        await front.machine("m1", "ready", scripted_engine.base_url)
        # The waker may know a machine before the gateway does.
        await front.machine("m3", "ready", third.base_url, tier="third")
        await front.seen(workers)
        scripted_engine.default = Script(tokens=3, hold_after=2)
        stream = asyncio.create_task(text_of(await front.sdk.chat.completions.create(**ASK, stream=True)))
        await scripted_engine.received(1)
        removed = before.replace('name = "org/model"', 'name = "other/model"')
        config.write_text(removed + ADDED.format(endpoint=third.base_url))
        await reloaded(front, times=workers)
        assert await models(front) == ["other/model", "new/model"]
        answer = await front.sdk.chat.completions.create(**ASK | {"model": "new/model"})
        assert answer.choices[0].message.content
        assert len(third.requests) == 1
        with pytest.raises(openai.NotFoundError):
            await front.sdk.chat.completions.create(**ASK)
        scripted_engine.release()
        assert await stream == " w1 w2 w3", "what is under way is not touched"
        config.write_text(before)
        await reloaded(front, times=2 * workers)
        assert (await front.sdk.chat.completions.create(**ASK)).choices[0].message.content == " w1 w2 w3"
        await front.usage(3)


async def test_a_request_held_for_a_removed_model_is_refused(opened: Opened) -> None:
    front = await opened()
    await front.machine("m1", "asleep")
    held = asyncio.create_task(front.sdk.chat.completions.create(**ASK))
    await front.wake_request(lambda request: request.waiting == 1)
    config = front.folder / "spotinference.toml"
    config.write_text(config.read_text().replace('name = "org/model"', 'name = "other/model"'))
    await reloaded(front)
    with pytest.raises(openai.NotFoundError):
        await held
    await front.wake_request(lambda request: request.waiting == 0)


async def test_what_cannot_change_keeps_its_value_and_is_logged(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.seen()
    config = front.folder / "spotinference.toml"
    before = config.read_text()
    config.write_text(before.replace('headers_held = "200ms"', 'headers_held = "300ms"'))
    await reloaded(front, "config_section_not_reloaded")
    for wrong in ("[[model]\n", before.replace('lineup = ["first", "second"]', 'lineup = ["no-such-tier"]')):
        config.write_text(wrong)
        await reloaded(front, "config_reload_failed", times=1 + (wrong != "[[model]\n"))
    config.write_text(before.replace('tier = "first"', 'tier = "first"\nkey_file = "/no/such/file"'))
    await reloaded(front, "config_reload_failed", times=3)
    assert (await front.sdk.chat.completions.create(**ASK)).choices[0].message.content
