"""What EC2's refusals mean to the waker, as a table, and what a missing response means."""

from botocore import exceptions as boto

from services.waker.core.events import RefusalScope
from services.waker.ports import CallResult
from shared.clouds.throttle import TooManyCalls

MESSAGE_CHARACTERS = 300
SKEW_SECONDS = 60.0
"""EC2 rejects signatures that are five minutes off; before that, the journal's and the bill's times disagree."""

PERMISSION = frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"})
THROTTLED = frozenset({
    "RequestLimitExceeded",
    "EC2ThrottledException",
    "Throttling",
    "ThrottlingException",
    "RequestThrottled",
    "TooManyRequestsException",
})  # fmt: skip
SIGNATURE = frozenset({"RequestExpired", "AuthFailure", "SignatureDoesNotMatch"})
"""A wrong clock causes these, too."""
NO_HIBERNATION = frozenset({"UnsupportedHibernationConfiguration", "UnsupportedOperation"})

_ROOM = "EC2 has no room for this type in this zone just now"
_QUOTA = "the account's quota for this instance family is used up: ask AWS for more, or put other machines to sleep"
_CREDENTIALS = "EC2 does not take our credentials: renew them, or name others by AWS's usual variables and files"
_ACCOUNT = "AWS has not enabled the account for this: see its console, or ask AWS's support"
_SLOW = "EC2 wants fewer calls of this account; we wait"
_UNKNOWN_ID = "EC2 does not know its instance: fix or remove the machine's `instance`, or the region"

MEANING: dict[str, tuple[RefusalScope, str]] = {
    "InsufficientInstanceCapacity": ("capacity_pool", _ROOM),
    "InsufficientHostCapacity": ("capacity_pool", _ROOM),
    "InsufficientReservedInstanceCapacity": ("capacity_pool", _ROOM),
    "InsufficientCapacityOnHost": ("capacity_pool", _ROOM),
    "ReservationCapacityExceeded": ("capacity_pool", "its capacity reservation is full"),
    "MaxSpotInstanceCountExceeded": ("quota", "the spot quota for this instance family is used up: ask AWS for more"),
    "InstanceLimitExceeded": ("quota", _QUOTA),
    "VcpuLimitExceeded": ("quota", _QUOTA),
    # Each of these is about the request or the volumes of this one machine.
    "SpotMaxPriceTooLow": ("machine", "spot machines cost more than its request's highest price just now"),
    "VolumeLimitExceeded": ("machine", "the account's quota for volumes of its type is used up: ask AWS for more"),
    "IncorrectInstanceState": ("transient", "its state is changing; it can be asked again when that is over"),
    "IncorrectSpotRequestState": ("transient", "its spot request is not ready; it can be asked again in two minutes"),
    "InvalidInstanceID.NotFound": ("machine", _UNKNOWN_ID),
    "InvalidInstanceID.Malformed": ("machine", "this is no instance id: fix the machine's `instance` (`i-…`)"),
    "InvalidInstanceId": ("machine", _UNKNOWN_ID),
    "UnsupportedHibernationConfiguration": ("machine", "it was launched without hibernation"),
    "UnsupportedOperation": ("machine", ""),
    "OperationNotPermitted": ("machine", "it is protected: take its stop protection off"),
    "Unsupported": ("machine", "EC2 does not offer this type in this zone: move the machine"),
    **dict.fromkeys(THROTTLED, ("transient", _SLOW)),
    # IAM policies grant actions per instance, such as by tag.
    **dict.fromkeys(PERMISSION, ("machine", "")),
    **dict.fromkeys(SIGNATURE, ("account", _CREDENTIALS)),
    "ExpiredToken": ("account", _CREDENTIALS),
    "ExpiredTokenException": ("account", _CREDENTIALS),
    "InvalidClientTokenId": ("account", _CREDENTIALS),
    "UnrecognizedClientException": ("account", _CREDENTIALS),
    "MissingAuthenticationToken": ("account", _CREDENTIALS),
    "Blocked": ("account", _ACCOUNT),
    "OptInRequired": ("account", _ACCOUNT),
    "PendingVerification": ("account", _ACCOUNT),
}
"""What a refusal concerns, and its explanation; an empty one means EC2's own words. After a code that is not listed
here, it is unknown what was done."""

_UNSENT = (boto.EndpointConnectionError, boto.ConnectTimeoutError)
_CONFIGURED_WRONG = {
    boto.NoCredentialsError: "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "name a profile by AWS_PROFILE, or give the host an instance role",
    boto.PartialCredentialsError: "AWS credentials are incomplete: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    boto.CredentialRetrievalError: "AWS credentials could not be had: see the profile's `credential_process` or role",
    boto.ProfileNotFound: "AWS_PROFILE names a profile that AWS's configuration files do not have",
    boto.InvalidRegionError: "`provider.ec2.region` is no region's name, such as us-east-1",
    boto.NoRegionError: "`provider.ec2.region` is missing",
    boto.TokenRetrievalError: "the AWS sign-in has expired: sign in again, `aws sso login`",
}


class Failure(Exception):
    """A call failed."""

    def __init__(self, result: CallResult) -> None:
        super().__init__(f"{result.reason} ({result.code})")
        self.result = result


def failure(error: Exception, action: str, skew: float) -> Failure:
    """What an exception of the SDK or the throttle means. `skew`: seconds by which our clock is behind EC2's."""
    return Failure(_result(error, action, skew))


def _result(error: Exception, action: str, skew: float) -> CallResult:
    if isinstance(error, boto.ClientError):
        return _answered(code_of(error), error.response.get("Error", {}).get("Message", ""), action, skew)
    if isinstance(error, TooManyCalls):
        return CallResult(outcome="refused", code="throttled", scope="transient", reason=str(error))
    if isinstance(error, TimeoutError):
        return CallResult(outcome="unknown", code="timeout", reason="EC2 did not answer in time")
    for kind, reason in _CONFIGURED_WRONG.items():
        if isinstance(error, kind):
            return CallResult(outcome="refused", code=kind.__name__, scope="account", reason=reason)
    if isinstance(error, _UNSENT):
        reason = "EC2 cannot be reached: see `provider.ec2.region`, `endpoint_url` and the way to it"
        return CallResult(outcome="failed", code=type(error).__name__, reason=reason)
    # The response is lost or malformed. The SDK's errors say no more than that, and may quote the request.
    return CallResult(outcome="unknown", code=type(error).__name__, reason="EC2 sent no usable answer")


def code_of(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _answered(code: str, message: str, action: str, skew: float) -> CallResult:
    # The rest is long, and only of use to `aws sts decode-authorization-message`.
    message = message.partition(" Encoded authorization failure message")[0][:MESSAGE_CHARACTERS]
    if code not in MEANING:
        return CallResult(outcome="unknown", code=code, reason=f"EC2 said {code}: {message}")
    scope, reason = MEANING[code]
    if code in PERMISSION:
        reason = f"we may not do it: allow ec2:{action} in the IAM policy of our credentials"
    elif code in SIGNATURE and abs(skew) > SKEW_SECONDS:
        reason = clock_fault(skew)
    return CallResult(outcome="refused", code=code, scope=scope, reason=reason or message)


def clock_fault(skew: float) -> str:
    side = "behind" if skew > 0 else "ahead of"
    return (
        f"our clock is {abs(skew):.0f} s {side} EC2's, so that EC2 refuses what we sign: "
        "set up time synchronisation on this host, with chrony or systemd-timesyncd"
    )
