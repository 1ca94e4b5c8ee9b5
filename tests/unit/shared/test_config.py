"""The configuration file: valid files are read, faults are reported with their place, the reason and the fix."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config.load import environment, find_config, load, parse
from shared.config.sections import Config
from shared.config.values import Duration, Money
from shared.database import database_url
from shared.engine_keys import EngineKeys
from shared.errors import Misconfigured

GOOD = """
[gateway]
port = 0
hold_cap = "10m"
[waker]
idle_timeout = "90s"
[billing]
daily_budget = "200.00"
direction_weights = {input = "1", cached = "0.25", output = "5"}
[[tier]]
name = "h100x2"
provider = "static"
price_per_hour = "5.00"
max_concurrency = 8
[[tier]]
name = "local"
provider = "process"
idle_timeout = "250ms"
[[machine]]
id = "h100x2-1"
tier = "h100x2"
instance = "471120"
resources = ["vol-1"]
endpoint = "http://10.0.4.11:8000"
[[machine]]
id = "local-1"
tier = "local"
command = ["engine", "--port", "{port}"]
[[model]]
name = "org/qwen3 coder"
lineup = ["local", "h100x2"]
served_as = "Qwen/Qwen3"
"""


def _read(text: str) -> Config:
    return parse(text, "f.toml")


def test_a_valid_file_is_read() -> None:
    config = _read(GOOD)
    assert (config.gateway.port, config.gateway.hold_cap, config.waker.idle_timeout) == (0, 600.0, 90.0)
    assert config.billing.daily_budget == Decimal(200)
    assert config.billing.direction_weights["cached"] == Decimal("0.25")
    assert config.tiers["h100x2"].price_per_hour == Decimal(5)
    assert config.tiers["local"].idle_timeout == 0.25
    assert config.machines["h100x2-1"].resources == ("vol-1",)
    model = config.models["org/qwen3 coder"]
    assert [machine.id for machine in config.machines_of(model)] == ["local-1", "h100x2-1"]


def test_an_empty_file_is_all_defaults() -> None:
    config = _read("")
    assert (config.gateway.port, config.waker.idle_timeout, config.billing.daily_budget) == (8080, 900.0, None)
    assert config.tier == ()


FAULTS = {
    "[gatway]": 'f.toml: unknown key "gatway"',
    "[gateway]\nprot = 1": 'f.toml: gateway: unknown key "prot"',
    '[gateway]\nport = "80"': "f.toml: gateway.port: expected int, got str",
    "[gateway]\nport = 70000": "f.toml: gateway.port must be from 0 to 65535, got 70000",
    "[meter]\nmetrics_port = -1": "f.toml: meter.metrics_port must be from 0 to 65535, got -1",
    "[gateway]\nhold_cap = 5": 'f.toml: gateway.hold_cap must be a duration, e.g. "15m" or "10s", got 5',
    '[waker]\nidle_timeout = "soon"': (
        'f.toml: waker.idle_timeout must be a duration, e.g. "15m" or "10s", got \'soon\''
    ),
    "[gateway]\nmax_waiting = 0": "f.toml: gateway.max_waiting must be at least 1, got 0",
    "[billing]\ndaily_budget = 200.0": (
        'f.toml: billing.daily_budget must be a decimal string, e.g. "5.00", got 200.0'
    ),
    '[billing]\nbudget_warning = "1.1"': (
        'f.toml: billing.budget_warning must be a share above 0 and at most 1, e.g. "0.8", got 1.1'
    ),
    '[billing]\nwhen_dark = "ask"': "f.toml: billing.when_dark: 'ask' is not one of the allowed values",
    '[[tier]]\nname = "t"\nprovider = "static"\ndaily_budget = "5"': (
        'f.toml: tier "t": daily_budget requires price_per_hour: without it, today\'s spend is unknown'
    ),
    '[billing]\ndaily_budget = "-1"': (
        "f.toml: billing.daily_budget must be a decimal string, e.g. \"5.00\", got '-1'"
    ),
    "[billing]\nband_steps = []": (
        'f.toml: billing.band_steps must have at least one step, e.g. "1.00": remove the key for the default steps'
    ),
    '[billing]\nband_steps = ["1", "1.00"]': ("f.toml: billing.band_steps[2] must be greater than 1, got 1.00"),
    '[billing]\nband_steps = ["0"]': ("f.toml: billing.band_steps[1] must be greater than 0, got 0"),
    "[billing]\nband_min_tokens = 0": "f.toml: billing.band_min_tokens must be at least 1, got 0",
    "a = ": "f.toml: not TOML: Invalid value (at end of document)",
    '[[tier]]\nname = "t"': 'f.toml: tier "t": the key "provider" is required',
    '[[tier]]\nname = "t"\nprovider = "magic"': (
        "f.toml: tier \"t\": provider: 'magic' is not one of the allowed values"
    ),
    '[[tier]]\nname = "t"\nprovider = "static"\n[[tier]]\nname = "t"\nprovider = "static"': (
        'f.toml: tier[2]: name "t" is used twice: remove one or rename it'
    ),
    '[[tier]]\nname = ""\nprovider = "static"': ("f.toml: tier[1]: name must be a non-empty printable string, got ''"),
    '[[tier]]\nname = "t"\nprovider = "static"\nmax_concurrency = 0': (
        'f.toml: tier "t": max_concurrency must be at least 1, got 0'
    ),
    '[[machine]]\nid = "m"\ntier = "t"\nsleep_level = 3': (
        'f.toml: machine "m": sleep_level: 3 is not one of the allowed values'
    ),
    '[[machine]]\nid = "m"\ntier = "t"': 'f.toml: machine "m": tier: no [[tier]] is named "t"',
    '[[model]]\nname = "m"\nlineup = []': 'f.toml: model "m": lineup must name at least one tier',
    '[[model]]\nname = "m"\nlineup = ["t"]': 'f.toml: model "m": lineup: no [[tier]] is named "t"',
}


@pytest.mark.parametrize(("text", "expected"), FAULTS.items())
def test_a_fault_is_reported_with_its_place_and_the_reason(text: str, expected: str) -> None:
    with pytest.raises(Misconfigured) as rejected:
        _read(text)
    assert str(rejected.value) == expected


STATIC = '[[tier]]\nname = "t"\nprovider = "static"\n[[machine]]\nid = "m"\ntier = "t"\n'
PROCESS = '[[tier]]\nname = "t"\nprovider = "process"\n[[machine]]\nid = "m"\ntier = "t"\n'
EC2 = '[provider.ec2]\nregion = "r"\n' + STATIC.replace("static", "ec2") + 'endpoint = "http://a:1"\n'
MACHINE_FAULTS = [
    (STATIC + "sleep_level = 1", 'sleep_level does not apply to a machine of provider "static"'),
    (STATIC + 'pair = "p"', 'pair does not apply to a machine of provider "static"'),
    (STATIC + 'environment = ["AWS_PROFILE"]', 'environment does not apply to a machine of provider "static"'),
    (
        PROCESS + 'command = ["{port}"]\nenvironment = ["A=secret"]',
        "environment[1] must be the name of a variable, without a value",
    ),
    (PROCESS + 'command = ["e", "{port}"]\npair = ""', "pair must not be empty: set a name, or remove the key"),
    (EC2, 'instance is required for provider "ec2": set the provider\'s id of the machine'),
    (EC2.replace('endpoint = "http://a:1"', 'instance = "i-1"'), 'endpoint is required for provider "ec2"'),
    (EC2 + 'instance = "i-1"\ncommand = ["{port}"]', 'command does not apply to a machine of provider "ec2"'),
    (STATIC, 'endpoint is required for provider "static", e.g. "http://10.0.4.11:8000"'),
    (STATIC + 'endpoint = "10.0.4.11:8000"', "endpoint must be an origin, e.g. http://10.0.4.11:8000, got"),
    (STATIC + 'endpoint = "http://a:1/v1"', "endpoint must be an origin without a path: remove '/v1'"),
    (
        STATIC + 'endpoint = "http://a:1"\ncommand = ["{port}"]',
        'command does not apply to a machine of provider "static"',
    ),
    (PROCESS, 'command is required for provider "process", e.g. ["vllm", "serve", "…", "{port}"]'),
    (PROCESS + 'command = ["vllm"]', 'command must contain "{port}", or the engine cannot know where to listen'),
    (
        PROCESS + 'command = ["{port}"]\nendpoint = "http://a:1"',
        'endpoint does not apply to a machine of provider "process": it follows from {port}',
    ),
]


@pytest.mark.parametrize(("text", "expected"), MACHINE_FAULTS)
def test_an_impossible_machine_is_reported(text: str, expected: str) -> None:
    with pytest.raises(Misconfigured) as rejected:
        _read(text)
    assert str(rejected.value).startswith(f'f.toml: machine "m": {expected}')


def test_a_missing_account_and_an_instance_named_twice_are_reported() -> None:
    twice = '[[machine]]\nid = "n"\ntier = "t"\nendpoint = "http://b:1"\ninstance = "i-1"\n'
    text = EC2.replace('[provider.ec2]\nregion = "r"\n', "") + 'instance = "i-1"\n' + twice
    with pytest.raises(Misconfigured) as rejected:
        _read(text)
    assert str(rejected.value).splitlines() == [
        'f.toml: provider.ec2 is required by a tier of provider "ec2": set its region',
        'f.toml: machine "n": instance \'i-1\' already belongs to machine "m"',
    ]
    with pytest.raises(Misconfigured, match=r'provider\.hyperstack is required by a tier of provider "hyperstack"'):
        _read(text.replace('provider = "ec2"', 'provider = "hyperstack"'))


@pytest.mark.parametrize(
    ("endpoint", "fault"),
    [
        ("http://otel-collector:4318", None),
        ("https://[::1]:4318/otlp/", None),
        ("otel-collector:4318", "otel.endpoint must be a URL"),
        ("http://otel:4318?x=1", "otel.endpoint must be a URL"),
        ("http://me:secret@otel:4318", "otel.endpoint must not contain a password"),
        ("http://otel:4318/v1/traces", "otel.endpoint must be the base URL"),
    ],
)
def test_a_collector_is_a_base_url_without_a_password(endpoint: str, fault: str | None) -> None:
    text = f'[otel]\nendpoint = "{endpoint}"'
    if fault is None:
        assert _read(text).otel.endpoint == endpoint
        return
    with pytest.raises(Misconfigured, match=fault):
        _read(text)


@pytest.mark.parametrize(
    ("url", "good"),
    [("http://api.example", False), ("", False), ("https://api.example/v1", True), ("http://[::1]:9/v1", True)],
)
def test_an_api_key_is_never_sent_unencrypted(url: str, good: bool) -> None:
    text = f'[provider.hyperstack]\nbase_url = "{url}"'
    if good:
        _read(text)
        return
    with pytest.raises(Misconfigured, match=r"provider\.hyperstack\.base_url must be an https:// URL"):
        _read(text)


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(Misconfigured) as rejected:
        _read('[gateway]\nport = -1\n[[model]]\nname = "m"\nlineup = []')
    assert len(str(rejected.value).splitlines()) == 2


def test_a_missing_or_unreadable_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="no such file: name another one with --config or SPOTINFERENCE_CONFIG"):
        load(tmp_path / "f.toml")
    (tmp_path / "f.toml").write_bytes(b"\xff")
    with pytest.raises(Misconfigured, match="not UTF-8 at its byte 0"):
        load(tmp_path / "f.toml")


def test_the_file_comes_from_the_option_the_environment_or_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPOTINFERENCE_CONFIG", raising=False)
    fallback = Path("fallback.toml")
    assert find_config(None, fallback) == fallback
    assert find_config(None) == Path("spotinference.toml")
    Path("spotinference.toml").touch()
    assert find_config(None, fallback) == Path("spotinference.toml")
    monkeypatch.setenv("SPOTINFERENCE_CONFIG", "env.toml")
    assert find_config(None, fallback) == Path("env.toml")
    assert find_config(Path("named.toml"), fallback) == Path("named.toml")


def test_secrets_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment("SPOT_TEST_SECRET") is None
    (tmp_path / "secret").write_text("from-file\n")
    monkeypatch.setenv("SPOT_TEST_SECRET_FILE", str(tmp_path / "secret"))
    assert environment("SPOT_TEST_SECRET") == "from-file"
    monkeypatch.setenv("SPOT_TEST_SECRET", "itself")
    assert environment("SPOT_TEST_SECRET") == "itself"
    monkeypatch.delenv("SPOT_TEST_SECRET")
    monkeypatch.setenv("SPOT_TEST_SECRET_FILE", str(tmp_path / "absent"))
    with pytest.raises(Misconfigured, match="SPOT_TEST_SECRET_FILE"):
        environment("SPOT_TEST_SECRET")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "sqlite+aiosqlite:////data/ledger.sqlite"),
        ('url = "postgresql://u@h/d"', "postgresql+asyncpg://u@h/d"),
        ('url = "postgres://u@h/d"', "postgresql+asyncpg://u@h/d"),
        ('url = "sqlite:////x.db"', "sqlite+aiosqlite:////x.db"),
        ('url = "postgresql+asyncpg://u@h/d"', "postgresql+asyncpg://u@h/d"),
    ],
)
def test_the_database_url_names_the_driver(text: str, url: str) -> None:
    assert database_url(_read(f"[database]\n{text}"), Path("/data"), "ledger.sqlite") == url


def test_an_unsupported_database_is_rejected() -> None:
    with pytest.raises(Misconfigured, match=r"database\.url must begin with sqlite"):
        database_url(_read('[database]\nurl = "mysql://h/d"'), Path("/data"), "x")


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("10s", 10), ("1.5m", 90), ("2h", 7200), ("1d", 86400), ("0s", 0)]
)
def test_a_duration_is_parsed_to_seconds(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "-1s", "1 s", "1h30m", "s", "1e3s", "1w", 10, None, True])
def test_a_malformed_duration_is_rejected(text: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        Duration.parse(text)


@given(st.decimals(min_value=0, max_value=10**9, places=12))
def test_money_is_exact(amount: Decimal) -> None:
    assert Money.parse(f"{amount:f}") == amount


@pytest.mark.parametrize("text", ["", "NaN", "Infinity", "-0.01", "1,00", "$5", 5, 5.0, None])
def test_a_malformed_amount_is_rejected(text: object) -> None:
    with pytest.raises(ValueError, match="must be a decimal string"):
        Money.parse(text)


def test_a_path_is_read() -> None:
    config = parse(
        '[database]\nurl_file = "/run/url"\n[[tier]]\nname = "a"\nprovider = "static"\nkey_file = "k"\n', "f"
    )
    assert config.database.url_file == Path("/run/url")
    assert config.tier[0].key_file == Path("k")
    with pytest.raises(Misconfigured, match='tier "a": key_file must be a path'):
        parse('[[tier]]\nname = "a"\nprovider = "static"\nkey_file = ""\n', "f")


def test_an_engine_key_is_only_sent_to_its_own_endpoint(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" sk-1 \n")
    text = f"""
[[tier]]
name = "far"
provider = "static"
key_file = "{tmp_path}/key"
[[tier]]
name = "here"
provider = "process"
key_file = "{tmp_path}/key"
[[machine]]
id = "m1"
tier = "far"
endpoint = "http://10.0.0.1:8000/"
[[machine]]
id = "m2"
tier = "here"
command = ["engine", "{{port}}"]
"""
    keys = EngineKeys(parse(text, "f"))
    assert keys.find("m1", "http://10.0.0.1:8000") == "sk-1"
    assert keys.find("m2", "http://127.0.0.1:4711") == "sk-1"
    for machine, endpoint in (
        ("m1", "http://10.0.0.2:8000"),
        ("m1", "http://127.0.0.1:4711"),
        ("m2", "http://10.0.0.1:8000"),
        ("m2", "http://127.0.0.1.attacker.example:80"),
        ("m3", "http://10.0.0.1:8000"),
    ):
        assert keys.find(machine, endpoint) is None, (machine, endpoint)


@pytest.mark.parametrize("content", [b"", b"two words", b"a\r\nX-Other: b", b"\xff", b"x" * 5000])
def test_a_key_file_without_a_key_is_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    text = f'[[tier]]\nname = "a"\nprovider = "static"\nkey_file = "{tmp_path}/key"\n'
    with pytest.raises(Misconfigured, match="tier 'a': key_file"):
        EngineKeys(parse(text, "f"))
