"""What Pod Security `restricted` asks of pods, which the API server says on a workload as a warning only, and more."""

from collections.abc import Iterator

from tests.deploy.manifests import REAPER, Document, Manifests, Workload, place_of

USER = 65532
LEVELS = ("enforce", "warn", "audit")
VOLUME_KINDS = {"configMap", "secret", "projected", "emptyDir", "ephemeral", "claim", "persistentVolumeClaim"}
CLOUD_SERVICES = {"waker", "billing", REAPER}
"""Alone may hold a cloud's credentials. The reaper has its own."""
CREDENTIALS = {"HYPERSTACK_API_KEY_FILE", "HYPERSTACK_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
SECRET_ENDINGS = ("_KEY", "_TOKEN", "_PASSWORD", "_URL")


def restricted(manifests: Manifests) -> list[str]:
    """Return what `restricted` forbids, and what may be tightened beyond it."""
    faults = [
        f"{place_of(namespace)}: pod-security.kubernetes.io/{level} has to be restricted"
        for namespace in manifests.of("Namespace")
        for level in LEVELS
        if namespace["metadata"].get("labels", {}).get(f"pod-security.kubernetes.io/{level}") != "restricted"
    ]
    for workload in manifests.workloads:
        faults += (f"{workload.place}: {fault}" for fault in _pod_faults(workload))
        for container in workload.containers:
            faults += (f"{workload.place} {container['name']}: {fault}" for fault in _container_faults(container))
    for account in manifests.of("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            faults.append(f"{place_of(account)}: automountServiceAccountToken has to be false: nothing calls the API")
    return faults


def _pod_faults(workload: Workload) -> Iterator[str]:
    pod = workload.pod
    context = pod.get("securityContext", {})
    expected = {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}
    for key, value in expected.items():
        if context.get(key) != value:
            yield f"securityContext.{key} has to be {value}"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "seccompProfile has to be RuntimeDefault"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{key} is not allowed"
    for key in ("automountServiceAccountToken", "enableServiceLinks"):
        if pod.get(key) is not False:
            yield f"{key} has to be false"
    for name, volume in workload.volumes.items():
        if not set(volume) - {"name"} <= VOLUME_KINDS:
            yield f"volume {name} is of a kind that is not allowed"


def _container_faults(container: Document) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation has to be false"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem has to be true"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "capabilities have to be dropped, all of them, and none added"
    if context.get("privileged") or context.get("runAsUser", USER) != USER:
        yield "privileged or another user"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "hostPort is not allowed"


def cloud_identity(manifests: Manifests) -> list[str]:
    """Return who else than the waker and billing can get a cloud's credentials."""
    faults = []
    for workload in manifests.workloads:
        names = {variable["name"] for c in workload.containers for variable in c.get("env", [])}
        if workload.service not in CLOUD_SERVICES and (names & CREDENTIALS or "hyperstack" in workload.volumes):
            faults.append(f"{workload.place}: holds a cloud's credentials")
    for account in manifests.of("ServiceAccount"):
        annotations = account["metadata"].get("annotations", {})
        if account["metadata"]["name"] not in CLOUD_SERVICES and any("role" in key for key in annotations):
            faults.append(f"{place_of(account)}: has a cloud's role")
    reaper, waker = (_secrets(manifests, name) for name in (REAPER, "waker"))
    shared = (reaper & waker) - {"nats-tls", "engine-keys"}
    return faults + [f"{REAPER}: has the waker's credentials, {sorted(shared)}: one loss takes both" for _ in shared]


def _secrets(manifests: Manifests, service: str) -> set[str]:
    volumes = [v for w in manifests.workloads if w.service == service for v in w.volumes.values()]
    sources = [s for v in volumes for s in (v, *v.get("projected", {}).get("sources", [])) if "secret" in s]
    return {s["secret"].get("secretName", s["secret"].get("name")) for s in sources}


def public_site(manifests: Manifests) -> list[str]:
    """Return the Secrets that the site, which strangers reach, shares with another service."""
    others = {workload.service for workload in manifests.workloads} - {"site"}
    shared = _secrets(manifests, "site") & set[str]().union(*(_secrets(manifests, name) for name in others))
    return [f"site: has the Secret {name} of another service" for name in sorted(shared - {"nats-tls"})]


def secrets_in_text(manifests: Manifests) -> list[str]:
    """Return Secrets in the manifests: they are made by the operator, and named here only."""
    faults = [f"{place_of(secret)}: a Secret does not belong into manifests" for secret in manifests.of("Secret")]
    for workload in manifests.workloads:
        for container in workload.containers:
            named = [variable["name"] for variable in container.get("env", []) if "value" in variable]
            secret = [name for name in named if name.endswith(SECRET_ENDINGS)]
            faults += [f"{workload.place}: {name} has its value in the manifest" for name in secret]
    return faults
