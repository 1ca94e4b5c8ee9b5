"""Asleep and awake again, ten thousand times in `make test-all`: simulated time, requests as it falls asleep."""

import pytest

from tests.simulation.simulated_cluster import SimulatedCluster


class Clients:
    """Ask one machine for ever: as soon as they are answered, or about when it begins to fall asleep."""

    def __init__(self, cluster: SimulatedCluster, model: str) -> None:
        self._town = cluster
        self._model = model
        self.going = True
        self.request = 0
        self.answered = 0
        self._ask()

    def _ask(self) -> None:
        if not self.going:
            return
        chance = self._town.chance
        together = chance.choice([1, 1, 1, 2, 6])
        for _ in range(together):
            self.request += 1
            chance.choice(self._town.gateways).request(self._model, chance.choice([0.01, 0.2, 2.0]), self._answer)

    def _answer(self) -> None:
        self.answered += 1
        if self.answered == self.request:
            chance = self._town.chance
            pause = chance.choice([0.0, 0.5, *(chance.uniform(0.9, 3.5) for _ in range(8))])
            self._town.later(pause, self._ask)


def settle(cluster: SimulatedCluster, clients: list[Clients]) -> None:
    """Nobody asks any more: whoever waits is answered, and then everything sleeps."""
    for client in clients:
        client.going = False
    ends = cluster.now + 120.0
    cluster.run(lambda: cluster.now < ends)
    assert [client.request for client in clients] == [client.answered for client in clients]
    assert {record.state for record, _ in cluster.bucket.values()} == {"asleep"}
    assert not any(engine.running for engine in cluster.engines.values())


SHAPES = [(1, 2, 4500), (1, 3, 3500), (3, 3, 2000)]
"""Machines, gateways and cycles: ten thousand in all."""


@pytest.mark.parametrize(
    ("machines", "gateways", "cycles"),
    [(machines, gateways, cycles // 5) for machines, gateways, cycles in SHAPES]
    + [pytest.param(*shape, marks=pytest.mark.long) for shape in SHAPES],
)
def test_cycles_lose_and_cut_nobody(machines: int, gateways: int, cycles: int) -> None:
    cluster = SimulatedCluster(machines + gateways, machines=machines, gateways=gateways)
    clients = [Clients(cluster, model) for model in cluster.spec.lineups]
    cluster.run(lambda: cluster.stops < cycles)
    settle(cluster, clients)
    assert cluster.starts == cluster.stops, "one start for each time that it slept"
    assert cluster.called_off > cycles / 10, "requests came while it drained"


def test_leaders_that_die_all_the_time_lose_and_cut_nobody() -> None:
    cluster = SimulatedCluster(5, machines=2)
    clients = [Clients(cluster, model) for model in cluster.spec.lineups]

    def die() -> None:
        if cluster.leading and clients[0].going:
            cluster.dies(cluster.chance.uniform(0.1, 8.0))
        cluster.later(cluster.chance.uniform(10.0, 40.0), die)

    cluster.later(20.0, die)
    cluster.run(lambda: cluster.stops < 500)
    settle(cluster, clients)
    assert cluster.term > 100
