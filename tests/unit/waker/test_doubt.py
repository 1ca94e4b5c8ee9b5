"""A provider in doubt: what serves goes on serving."""

from tests.unit.waker.fleets import IDLE, World, plan


def cloud() -> World:
    world = World(plan(provider="ec2"))
    world.ready()
    world.use("a1")
    return world


def test_nothing_drains_from_the_first_look_that_fails_until_one_succeeds() -> None:
    world = cloud()
    world.blind = False
    world.pass_time(IDLE - 5)
    world.looked({}, fault="503")
    world.pass_time(10)
    assert world.state("a1") == "ready"
    world.seen("a1", "up")
    world.pass_time(0.25)
    assert world.path("a1")[-2:] == ["draining", "falling_asleep"]


def test_a_drain_is_called_off_when_the_provider_cannot_be_seen_any_more() -> None:
    world = cloud()
    world.pass_time(IDLE - 3)
    world.use("a1")
    world.pass_time(4)
    assert world.state("a1") == "draining"
    world.looked({}, fault="503")
    assert world.state("a1") == "ready"
    assert world.machine("a1").reason == "its provider cannot be seen: 503"


def test_the_operators_word_stands_whatever_the_provider_says() -> None:
    world = cloud()
    world.order("hibernate", "a1")
    world.looked({}, fault="503")
    world.use("a1", ack=True)
    assert world.state("a1") == "falling_asleep"
