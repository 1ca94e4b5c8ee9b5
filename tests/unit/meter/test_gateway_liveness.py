"""Gateways that fall silent: only those without a last word died."""

from services.meter.core.gateway_liveness import SILENT_SECONDS, GatewayLiveness
from shared.messages.gateway import Activity


def activity(gateway: str, *, leaving: bool = False) -> Activity:
    return Activity(gateway=gateway, sent_at=0.0, machines={}, leaving=leaving)


def test_silent_gateway_is_reported_once() -> None:
    gateways = GatewayLiveness()
    gateways.record(activity("a"), 0.0)
    gateways.record(activity("b"), 5.0)
    assert gateways.pop_silent(SILENT_SECONDS) == []
    assert [a.gateway for a in gateways.pop_silent(SILENT_SECONDS + 1)] == ["a"]
    assert [a.gateway for a in gateways.pop_silent(SILENT_SECONDS + 6)] == ["b"]
    assert gateways.pop_silent(1e9) == []


def test_leaving_gateway_is_not_reported() -> None:
    gateways = GatewayLiveness()
    gateways.record(activity("a"), 0.0)
    gateways.record(activity("a", leaving=True), 1.0)
    assert gateways.pop_silent(1e9) == []


def test_no_gateway_is_reported_after_clear() -> None:
    gateways = GatewayLiveness()
    gateways.record(activity("a"), 0.0)
    gateways.clear()
    assert gateways.pop_silent(1e9) == []
