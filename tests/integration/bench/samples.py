"""Samples of a run that never was."""

from bench.load import LoadResult, Series
from bench.sampler import Sample, workloads
from bench.targets import DIRECT, TARGETS


def sample_of(
    number: int, cell: str, target: str, *, ms: float = 1.0, cpu_us: float = 1.0, others: float = 0.0
) -> Sample:
    series = Series(100, 0.0, ms / 1e3, 2 * ms / 1e3, 3 * ms / 1e3, 1.0)
    result = LoadResult(
        requests=10,
        tokens=160,
        rate=7.0 * number,
        token_rate=100.0,
        latency=series,
        first=None,
        transit=series,
        gap=series,
        answered=None,
    )
    cpu_ns = int(cpu_us * 1e3)
    return Sample(
        round=number,
        cell=cell,
        target=target,
        result=result,
        cpu_ns=cpu_ns,
        kernel_ns=cpu_ns // 4,
        core=0.5,
        others=others,
        others_elsewhere=others / 2,
        settle_seconds=0.0,
    )


def all_samples(number: int, **of_proxies: float) -> list[Sample]:
    direct = [sample_of(number, cell, DIRECT) for cell in workloads(1)]
    return direct + [sample_of(number, cell, target, **of_proxies) for cell in workloads(1) for target in TARGETS[1:]]


def replaced(samples: list[Sample], *others: Sample) -> list[Sample]:
    """The samples with some of them measured otherwise."""
    new = {(s.round, s.cell, s.target): s for s in others}
    return [new.get((s.round, s.cell, s.target), s) for s in samples]
