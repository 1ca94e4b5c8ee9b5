"""Hyperstack's key in a file that is replaced while the waker runs."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.waker.adapters.hyperstack_api import HyperstackApi
from shared.clouds.hyperstack import HyperstackAccount, HyperstackError, api_key
from shared.clouds.throttle import Throttle
from tests.kit.hyperstack_cloud import hyperstack_cloud


async def test_a_replaced_key_is_used_from_the_call_after_a_401_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text("old-key\n")
    monkeypatch.delenv("HYPERSTACK_API_KEY", raising=False)
    monkeypatch.setenv("HYPERSTACK_API_KEY_FILE", str(file))
    monkeypatch.setattr("shared.secret_file.CHECK_SECONDS", 1000.0)  # it is the 401 that counts here
    async with hyperstack_cloud() as cloud:
        cloud.key = "old-key"
        api = HyperstackApi(HyperstackAccount(cloud.base_url, api_key(), Throttle(100_000)))
        try:
            await api.machines()
            cloud.key = "new-key"
            file.write_text("new-key\n")
            with capture_logs() as logs, pytest.raises(HyperstackError) as error:
                await api.machines()
            assert "old-key" not in str(error.value)
            await api.machines()
            assert [line["event"] for line in logs] == ["secret_file_reread"]
            assert "new-key" not in f"{logs}"
        finally:
            await api.close()
