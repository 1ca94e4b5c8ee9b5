"""What each of EC2's refusals means, and that none of them is taken for another."""

import pytest
from botocore import exceptions as boto

from services.waker.adapters.ec2_failures import MEANING, failure
from services.waker.ports import CallResult
from shared.clouds.throttle import TooManyCalls


def meant(code: str, message: str = "", *, action: str = "StartInstances", skew: float = 0.0) -> CallResult:
    error = boto.ClientError({"Error": {"Code": code, "Message": message}}, action)
    return failure(error, action, skew).result


@pytest.mark.parametrize(
    ("code", "scope"),
    [
        ("InsufficientInstanceCapacity", "capacity_pool"),
        ("MaxSpotInstanceCountExceeded", "quota"),
        ("SpotMaxPriceTooLow", "machine"),
        ("InstanceLimitExceeded", "quota"),
        ("VcpuLimitExceeded", "quota"),
        ("IncorrectInstanceState", "transient"),
        ("IncorrectSpotRequestState", "transient"),
        ("UnsupportedHibernationConfiguration", "machine"),
        ("InvalidInstanceID.NotFound", "machine"),
        ("InvalidInstanceID.Malformed", "machine"),
        ("RequestLimitExceeded", "transient"),
        ("EC2ThrottledException", "transient"),
        ("UnauthorizedOperation", "machine"),
        ("AuthFailure", "account"),
        ("ExpiredToken", "account"),
        ("RequestExpired", "account"),
        ("Blocked", "account"),
        ("OptInRequired", "account"),
        ("PendingVerification", "account"),
    ],
)
def test_refusal_has_its_scope_and_a_fix(code: str, scope: str | None) -> None:
    result = meant(code)
    assert (result.outcome, result.code, result.scope) == ("refused", code, scope)
    assert len(result.reason) > 15


@pytest.mark.parametrize("code", ["Unavailable", "InternalError", "ServiceUnavailable", "NewInTheYear2027", ""])
def test_unlisted_error_is_unknown_and_keeps_its_message(code: str) -> None:
    result = meant(code, "out of order")
    assert (result.outcome, result.code, result.scope) == ("unknown", code, None)
    assert "out of order" in result.reason


def test_a_missing_permission_is_named_as_the_policy_names_it() -> None:
    secret = "You may not. Encoded authorization failure message: " + "x" * 1000
    assert "ec2:StopInstances" in meant("UnauthorizedOperation", secret, action="StopInstances").reason
    assert "xxx" not in meant("UnauthorizedOperation", secret).reason


def test_a_long_message_is_cut() -> None:
    assert len(meant("Strange", "y" * 5000).reason) < 400


@pytest.mark.parametrize("code", ["RequestExpired", "AuthFailure", "SignatureDoesNotMatch"])
def test_a_refused_signature_is_put_down_to_the_clock_where_the_clock_is_wrong(code: str) -> None:
    assert "305 s behind" in meant(code, skew=305).reason
    assert "400 s ahead of" in meant(code, skew=-400).reason
    assert "time synchronisation" in meant(code, skew=305).reason
    assert "credentials" in meant(code, skew=2).reason


@pytest.mark.parametrize(
    ("error", "outcome", "scope", "word"),
    [
        (TooManyCalls("too many calls"), "refused", "transient", "too many calls"),
        (TimeoutError(), "unknown", None, "in time"),
        (boto.ReadTimeoutError(endpoint_url="u"), "unknown", None, "no usable answer"),
        (boto.ConnectionClosedError(endpoint_url="u"), "unknown", None, "no usable answer"),
        (boto.EndpointConnectionError(endpoint_url="u"), "failed", None, "provider.ec2.region"),
        (boto.ConnectTimeoutError(endpoint_url="u"), "failed", None, "provider.ec2.region"),
        (boto.NoCredentialsError(), "refused", "account", "AWS_ACCESS_KEY_ID"),
        (boto.ProfileNotFound(profile="p"), "refused", "account", "AWS_PROFILE"),
        (boto.InvalidRegionError(region_name="x y"), "refused", "account", "provider.ec2.region"),
        (ValueError("anything"), "unknown", None, "no usable answer"),
    ],
)
def test_call_without_a_response_is_unknown_unless_it_was_never_sent(
    error: Exception, outcome: str, scope: str | None, word: str
) -> None:
    result = failure(error, "StartInstances", 0.0).result
    assert (result.outcome, result.scope) == (outcome, scope)
    assert result.code
    assert word in result.reason


def test_the_whole_table_is_in_words() -> None:
    for code in MEANING:
        assert meant(code, "as EC2 says").reason
