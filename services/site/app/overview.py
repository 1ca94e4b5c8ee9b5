"""The first page: what this is, the two lines to change, and what is awake."""

from collections.abc import Mapping

import msgspec

from shared.config.sections import Config


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What the first page shows."""

    api_url: str
    models: list[str]


class OverviewPage:
    """Loads the first page."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def load(self, _variables: Mapping[str, str]) -> Overview:
        return Overview(api_url=self._config.api_url, models=sorted(self._config.models))
