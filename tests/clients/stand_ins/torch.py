"""Stands in for PyTorch, whose wheels are gigabytes: guidellm's data loader takes no more of it than this."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any


class Generator:
    """Of random numbers, which nothing here draws."""

    def manual_seed(self, seed: int) -> None: ...


class IterableDataset:
    """What a data loader reads."""

    def __class_getitem__(cls, _item: object) -> type:
        return cls


class DataLoader(IterableDataset):
    """Hands on a dataset as it is."""

    def __init__(self, dataset: Iterable[Any], **_more: object) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        return iter(self.dataset)


def get_worker_info() -> None:
    """There are no workers."""


utils = data = sys.modules[__name__]
sys.modules.update({f"torch.utils{name}": utils for name in ("", ".data", ".data.dataloader", ".data.dataset")})
