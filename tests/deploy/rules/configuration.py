"""The configuration in the ConfigMap, read as the services read it, against what the manifests give them."""

from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from shared.bus.access import USER
from shared.config.load import parse
from shared.config.sections import Config, ServiceSection
from shared.errors import Misconfigured
from tests.deploy.manifests import BUS, CONFIG_FILE, K8S, REAPER, SETUP, Document, Manifests, Workload, place_of
from tests.deploy.rules.code import BUS_USERS, COMMANDS, SERVICES, talks_to_clouds, talks_to_database, talks_to_engines
from tests.docs.pages import page, quoted

ANY_ADDRESS = {"*", "::", "0.0.0.0"}
DATA_DIR = "/var/lib/spotinference"


def services(manifests: Manifests) -> list[str]:
    """Return services that have no workload, and workloads that run something else."""
    faults = [
        f"services/{name} has no folder in {K8S.name}/base" for name in SERVICES if not (K8S / "base" / name).is_dir()
    ]
    missing = [name for name in (*SERVICES, SETUP, BUS) if not manifests.has_workload(name)]
    faults += [f"{name}: has no workload" for name in missing]
    for workload in manifests.workloads:
        if workload.service in SERVICES:
            command = ["python3", "-m", f"services.{workload.service}"]
            if [c.get("command") for c in workload.containers] != [command]:
                faults.append(f"{workload.place}: has to run {' '.join(command)}")
    return faults


def present(manifests: Manifests) -> list[str]:
    """Return what of ours runs."""
    return [name for name in (*SERVICES, *COMMANDS) if manifests.has_workload(name)]


def configuration(manifests: Manifests) -> list[str]:
    """Return faults of the file, and what it names that the pods do not have."""
    files = [d for d in manifests.of("ConfigMap") if CONFIG_FILE in d["data"]]
    try:
        for document in files:
            parse(document["data"][CONFIG_FILE], place_of(document))
    except Misconfigured as error:
        return str(error).splitlines()
    faults = []
    if len({document["data"][CONFIG_FILE] for document in files}) != 1:
        faults.append("the services and the job that prepares them have different configurations")
    config = manifests.config
    for service in present(manifests):
        workload = manifests.workload(service)
        faults += (f"{workload.place}: {fault}" for fault in _path_faults(manifests, workload, config))
        if service in SERVICES:
            section: ServiceSection = getattr(config, service)
            faults += (f"{workload.place}: {fault}" for fault in _port_faults(workload, section))
    faults += _bus_faults(manifests, config)
    faults += _account_faults(manifests, config)
    faults += _sign_in_faults(manifests, config)
    return faults


def _port_faults(workload: Workload, section: ServiceSection) -> Iterator[str]:
    if section.metrics_host not in ANY_ADDRESS:
        yield f'metrics_host = "{section.metrics_host}": probes come from other addresses'
    if section.metrics_port != workload.ports.get("metrics"):
        yield f"metrics_port = {section.metrics_port}, its container's port is {workload.ports.get('metrics')}"
    port: int | None = getattr(section, "port", None)
    if port != workload.ports.get("http"):
        yield f"port = {port}, its container's port is {workload.ports.get('http')}"
    if port is not None and section.host not in ANY_ADDRESS:
        yield f'host = "{section.host}": requests come from other addresses'
    if getattr(section, "workers", 1) != 1:
        yield "workers: add replicas instead, which are drained one by one"


def _path_faults(manifests: Manifests, workload: Workload, config: Config) -> Iterator[str]:
    (container,) = workload.containers
    arguments: list[str] = container["args"]
    options = dict(zip(arguments[-4::2], arguments[-3::2], strict=True))
    available = mounted_files(manifests, workload, container)
    paths = {options.get("--config"): "--config", **_needed(workload.service, config)}
    for path, key in paths.items():
        if path is None or not any(_covers(file, path) for file in available):
            yield f"{key} names {path}, which no volume has"
    writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
    if options.get("--data-dir") != DATA_DIR or writable != {DATA_DIR}:
        yield f"only --data-dir {DATA_DIR} has to be writable, got {options.get('--data-dir')}, {sorted(writable)}"
    for variable in container.get("env", []):
        name, value = variable["name"], variable.get("value", "")
        if name not in _variables():
            yield f"nothing reads the variable {name}"
        if name.endswith("_FILE") and not any(_covers(file, value) for file in available):
            yield f"{name} names {value}, which no volume has"


@cache
def _variables() -> frozenset[str]:
    """Return what the services read, by the reference."""
    rows = page("docs/reference/configuration.md").rows("## Environment")
    return frozenset(name for cells in rows for name in quoted(cells[0]))


def _needed(service: str, config: Config) -> dict[str | None, str]:
    """Return the files that a service opens, and the key of each."""
    bus, database = config.bus, config.database
    named = {
        "bus.ca_file": bus.ca_file,
        "bus.nkey_file": bus.nkey_file,
        "database.url_file": database.url_file if talks_to_database(service) else None,
    }
    if talks_to_engines(service):
        named |= {f"tier {tier.name}: key_file": tier.key_file for tier in config.tier}
        named |= {f"machine {machine.id}: key_file": machine.key_file for machine in config.machine}
    return {str(path).replace(USER, service): key for key, path in named.items() if path is not None}


def mounted_files(manifests: Manifests, workload: Workload, container: Document) -> list[str]:
    """Return the files in a container's volumes; a folder with a slash at its end where any file may be."""
    files: list[str] = []
    for mount in container["volumeMounts"]:
        volume, folder = workload.volumes.get(mount["name"], {}), mount["mountPath"]
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            if "configMap" in source:
                document = manifests.find("ConfigMap", source["configMap"]["name"])
                files += [f"{folder}/{key}" for key in (document or {}).get("data", ())]
            if "secret" in source:
                items = source["secret"].get("items")
                files += [f"{folder}/{item['path']}" for item in items] if items else [f"{folder}/"]
    return files


def _covers(file: str, path: str) -> bool:
    return f"{PurePosixPath(path).parent}/" == file if file.endswith("/") else file == path


def _bus_faults(manifests: Manifests, config: Config) -> Iterator[str]:
    nats = manifests.workload(BUS)
    is_secure = "tls {" in manifests.bus_files["tls.conf"]
    hosts = set()
    for url in config.bus.urls or (config.bus.url or "",):
        parts = urlsplit(url)
        host, _, service_name = (parts.hostname or "").partition(".")
        service = manifests.find("Service", service_name or host)
        ports = [p["port"] for p in service["spec"]["ports"]] if service else []
        if parts.port not in ports:
            yield f"[bus] {url}: no Service has this name and port"
        if parts.scheme != ("tls" if is_secure else "nats"):
            yield f"[bus] {url}: the servers {'speak TLS' if is_secure else 'have no certificate'}"
        hosts.add(host)
    servers = nats.spec["replicas"]
    if servers > 1 and hosts != {f"{BUS}-{number}" for number in range(servers)}:
        yield f"[bus] urls has to name each of the {servers} servers"
    if config.bus.replicas != servers:
        yield f"[bus] replicas = {config.bus.replicas}, there are {servers} servers"
    if config.bus.nkey_file is None or (config.bus.ca_file is not None) != is_secure:
        yield "[bus] needs nkey_file, and ca_file exactly with TLS"
    if unknown := set(present(manifests)) - set(BUS_USERS):
        yield f"the bus has no user for {sorted(unknown)}"


def _account_faults(manifests: Manifests, config: Config) -> Iterator[str]:
    """Whoever calls a cloud has the credentials for each account in the file."""
    for service in [name for name in present(manifests) if talks_to_clouds(name)]:
        workload = manifests.workload(service)
        has_key = any(v["name"] == "HYPERSTACK_API_KEY_FILE" for c in workload.containers for v in c.get("env", []))
        if has_key != (config.provider.hyperstack is not None) and not (has_key and service == REAPER):
            yield f"{workload.place}: HYPERSTACK_API_KEY_FILE belongs with [provider.hyperstack]"
    if (config.provider.ec2 is not None) != (manifests.find("NetworkPolicy", "pod-identity") is not None):
        yield "[provider.ec2] belongs with the component eks-identity"


def _sign_in_faults(manifests: Manifests, config: Config) -> Iterator[str]:
    """Who signs in needs the client's secret, an address of its own for the bound of attempts, and the gateway."""
    site = config.site
    variables = {v["name"] for c in manifests.workload("site").containers for v in c.get("env", [])}
    configured = {"GITHUB_CLIENT_SECRET_FILE": site.github, "OIDC_CLIENT_SECRET_FILE": site.oidc}
    needed = {name for name, section in configured.items() if section is not None}
    yield from (f"Deployment site: needs {name}: the component sign-in" for name in sorted(needed - variables))
    if variables & set(configured) and not needed:
        yield "the component sign-in belongs with [site.github] or [site.oidc]"
    if needed and not site.trusted_proxies:
        yield "[site] trusted_proxies: without it everybody's attempts to sign in count as the balancer's"
    if needed and site.public_url not in config.gateway.cors_origins:
        yield f"[gateway] cors_origins has to have {site.public_url}, or browsers refuse the playground"
