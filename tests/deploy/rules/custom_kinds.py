"""The kinds of cert-manager, the Prometheus operator, Gateway API and KEDA, as far as we use them.

Kubernetes has no schema of them. A field that is not here is unknown: add it with its type, from the project's
reference.
"""

from typing import Annotated, Any, Literal

import msgspec

Duration = Annotated[str, msgspec.Meta(pattern=r"^([0-9]+(h|m|s|ms))+$")]
Host = Annotated[str, msgspec.Meta(pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class _Part(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True):
    pass


class Metadata(_Part):
    name: str
    namespace: str
    labels: dict[str, str] = {}


class _IssuerName(_Part):
    name: str
    kind: Literal["Issuer", "ClusterIssuer"]


class _PrivateKey(_Part):
    algorithm: Literal["ECDSA", "RSA", "Ed25519"]
    size: Literal[256, 384, 521, 2048, 4096]


class _CertificateSpec(_Part):
    secret_name: str
    issuer_ref: _IssuerName
    common_name: Annotated[str, msgspec.Meta(max_length=64)]
    duration: Duration
    private_key: _PrivateKey
    renew_before: Duration | None = None
    is_ca: bool = msgspec.field(name="isCA", default=False)
    usages: list[Literal["server auth", "client auth"]] = []
    dns_names: list[Host] = []
    ip_addresses: list[str] = []


class Certificate(_Part):
    api_version: str
    kind: str
    metadata: Metadata
    spec: _CertificateSpec


class _CaSecret(_Part):
    secret_name: str


class _IssuerSpec(_Part):
    self_signed: dict[str, Any] | None = None
    ca: _CaSecret | None = None


class Issuer(_Part):
    api_version: str
    kind: str
    metadata: Metadata
    spec: _IssuerSpec


class _MatchLabels(_Part):
    match_labels: dict[str, str]


class _Relabeling(_Part):
    source_labels: list[str]
    regex: str
    action: Literal["drop", "keep", "replace", "labeldrop", "labelkeep"]


class _Endpoint(_Part):
    port: str
    interval: Duration
    scrape_timeout: Duration
    metric_relabelings: list[_Relabeling] = []


class _ServiceMonitorSpec(_Part):
    selector: _MatchLabels
    endpoints: Annotated[list[_Endpoint], msgspec.Meta(min_length=1)]
    job_label: str


class ServiceMonitor(_Part):
    api_version: str
    kind: str
    metadata: Metadata
    spec: _ServiceMonitorSpec


class _AlertingRule(_Part):
    alert: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]
    hold: Annotated[str, msgspec.Meta(pattern="^([0-9]+(d|h|m|s))+$")] | None = msgspec.field(default=None, name="for")


class _RuleGroup(_Part):
    name: str
    rules: Annotated[list[_AlertingRule], msgspec.Meta(min_length=1)]


class _PrometheusRuleSpec(_Part):
    groups: list[_RuleGroup]


class PrometheusRule(_Part):
    api_version: str
    kind: str
    metadata: Metadata
    spec: _PrometheusRuleSpec


class _ParentRef(_Part):
    name: str
    namespace: str
    section_name: Host | None = None


class _BackendRef(_Part):
    name: str
    port: Port


class _Path(_Part):
    type: Literal["PathPrefix", "Exact"]
    value: Annotated[str, msgspec.Meta(pattern="^/")]


class _Match(_Part):
    path: _Path


class _Timeouts(_Part):
    request: Duration
    backend_request: Duration


class _Redirect(_Part):
    scheme: Literal["http", "https"]
    status_code: Literal[301, 302]


class _Filter(_Part):
    type: Literal["RequestRedirect"]
    request_redirect: _Redirect


class _RouteRule(_Part):
    matches: list[_Match] = []
    filters: list[_Filter] = []
    backend_refs: list[_BackendRef] = []
    timeouts: _Timeouts | None = None


class _RouteSpec(_Part):
    parent_refs: Annotated[list[_ParentRef], msgspec.Meta(min_length=1)]
    hostnames: list[Host]
    rules: Annotated[list[_RouteRule], msgspec.Meta(min_length=1)]


class HttpRoute(_Part):
    api_version: str
    kind: str
    metadata: Metadata
    spec: _RouteSpec


class _ScaleTarget(_Part):
    api_version: Literal["apps/v1"]
    kind: Literal["Deployment", "StatefulSet"]
    name: str


class _Policy(_Part):
    type: Literal["Pods", "Percent"]
    value: Count
    period_seconds: Annotated[int, msgspec.Meta(ge=1, le=1800)]


class _Scaling(_Part):
    stabilization_window_seconds: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 0
    policies: list[_Policy] = []


class _Behavior(_Part):
    scale_up: _Scaling | None = None
    scale_down: _Scaling | None = None


class _HpaConfig(_Part):
    behavior: _Behavior


class _Advanced(_Part):
    horizontal_pod_autoscaler_config: _HpaConfig


class _Trigger(_Part):
    type: Literal["prometheus", "cpu", "nats-jetstream"]
    metadata: dict[str, str]
    metric_type: Literal["AverageValue", "Value", "Utilization"] | None = None


class _ScaledObjectSpec(_Part):
    scale_target_ref: _ScaleTarget
    min_replica_count: Count
    max_replica_count: Count
    triggers: Annotated[list[_Trigger], msgspec.Meta(min_length=1)]
    advanced: _Advanced | None = None


class ScaledObject(_Part):
    api_version: str
    kind: str
    metadata: Metadata
    spec: _ScaledObjectSpec


CUSTOM_KINDS: dict[tuple[str, str], type[msgspec.Struct]] = {
    ("cert-manager.io/v1", "Certificate"): Certificate,
    ("cert-manager.io/v1", "Issuer"): Issuer,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): HttpRoute,
    ("keda.sh/v1alpha1", "ScaledObject"): ScaledObject,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PrometheusRule,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ServiceMonitor,
}
