"""The configuration file: what is right is read, what is wrong is refused with its place, the reason and the fix."""

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


def test_a_good_file() -> None:
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
    "[gatway]": "f.toml: Object contains unknown field `gatway`",
    "[gateway]\nprot = 1": "f.toml: gateway: object contains unknown field `prot`",
    '[gateway]\nport = "80"': "f.toml: gateway.port: expected `int`, got `str`",
    "[gateway]\nport = 70000": "f.toml: gateway.port: a port is 0 to 65535, got 70000",
    "[meter]\nmetrics_port = -1": "f.toml: meter.metrics_port: a port is 0 to 65535, got -1",
    "[gateway]\nhold_cap = 5": 'f.toml: gateway.hold_cap: expected a duration such as "15m" or "10s", got 5',
    '[waker]\nidle_timeout = "soon"': (
        'f.toml: waker.idle_timeout: expected a duration such as "15m" or "10s", got \'soon\''
    ),
    "[gateway]\nmax_waiting = 0": "f.toml: gateway.max_waiting: must be at least 1, got 0",
    "[billing]\ndaily_budget = 200.0": (
        'f.toml: billing.daily_budget: expected an amount as a string such as "5.00", got 200.0'
    ),
    '[billing]\nbudget_warning = "1.1"': (
        'f.toml: billing.budget_warning: a share of the budget, such as "0.8": above 0 and at most 1, got 1.1'
    ),
    '[billing]\nwhen_dark = "ask"': "f.toml: billing.when_dark: invalid enum value 'ask'",
    '[[tier]]\nname = "t"\nprovider = "static"\ndaily_budget = "5"': (
        "f.toml: tier[1] (t): daily_budget: needs the tier's price_per_hour: without it nobody knows what it has cost "
        "today"
    ),
    '[billing]\ndaily_budget = "-1"': (
        "f.toml: billing.daily_budget: expected an amount as a string such as \"5.00\", got '-1'"
    ),
    "[billing]\nband_steps = []": (
        'f.toml: billing.band_steps: name at least one, such as "1.00", or leave the key out'
    ),
    '[billing]\nband_steps = ["1", "1.00"]': (
        "f.toml: billing.band_steps[2]: each step is above the one before it, got 1.00 after 1"
    ),
    '[billing]\nband_steps = ["0"]': (
        "f.toml: billing.band_steps[1]: each step is above the one before it, got 0 after 0"
    ),
    "[billing]\nband_min_tokens = 0": "f.toml: billing.band_min_tokens: must be at least 1, got 0",
    "a = ": "f.toml: not TOML: Invalid value (at end of document)",
    '[[tier]]\nname = "t"': "f.toml: tier[1]: object missing required field `provider`",
    '[[tier]]\nname = "t"\nprovider = "magic"': "f.toml: tier[1].provider: invalid enum value 'magic'",
    '[[tier]]\nname = "t"\nprovider = "static"\n[[tier]]\nname = "t"\nprovider = "static"': (
        "f.toml: tier[2]: 't' is named twice: remove one or rename it"
    ),
    '[[tier]]\nname = ""\nprovider = "static"': (
        "f.toml: tier[1]: the name must be a non-empty printable string, got ''"
    ),
    '[[tier]]\nname = "t"\nprovider = "static"\nmax_concurrency = 0': (
        "f.toml: tier[1].max_concurrency: must be at least 1, got 0"
    ),
    '[[machine]]\nid = "m"\ntier = "t"\nsleep_level = 3': "f.toml: machine[1].sleep_level: invalid enum value 3",
    '[[machine]]\nid = "m"\ntier = "t"': "f.toml: machine[1] (m): tier: no [[tier]] is named 't'",
    '[[model]]\nname = "m"\nlineup = []': "f.toml: model[1] (m): lineup: name at least one tier",
    '[[model]]\nname = "m"\nlineup = ["t"]': "f.toml: model[1] (m): lineup: no [[tier]] is named 't'",
}


@pytest.mark.parametrize(("text", "expected"), FAULTS.items())
def test_a_fault_is_told_with_its_place_and_the_reason(text: str, expected: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        _read(text)
    assert str(refused.value) == expected


STATIC = '[[tier]]\nname = "t"\nprovider = "static"\n[[machine]]\nid = "m"\ntier = "t"\n'
PROCESS = '[[tier]]\nname = "t"\nprovider = "process"\n[[machine]]\nid = "m"\ntier = "t"\n'
EC2 = '[provider.ec2]\nregion = "r"\n' + STATIC.replace("static", "ec2") + 'endpoint = "http://a:1"\n'
MACHINE_FAULTS = [
    (STATIC + "sleep_level = 1", 'sleep_level: not for provider "static"'),
    (STATIC + 'pair = "p"', 'pair: not for provider "static"'),
    (STATIC + 'environment = ["AWS_PROFILE"]', 'environment: not for provider "static"'),
    (
        PROCESS + 'command = ["{port}"]\nenvironment = ["A=secret"]',
        "environment: 'A=secret' is no variable's name: only names stand here, never values",
    ),
    (PROCESS + 'command = ["e", "{port}"]\npair = ""', "pair: name it, or leave the key out"),
    (EC2, 'instance: a machine of provider "ec2" needs the provider\'s id for it'),
    (EC2.replace('endpoint = "http://a:1"', 'instance = "i-1"'), 'endpoint: a machine of provider "ec2" needs one'),
    (EC2 + 'instance = "i-1"\ncommand = ["{port}"]', 'command: not for provider "ec2"'),
    (STATIC, 'endpoint: a machine of provider "static" needs one, such as "http://10.0.4.11:8000"'),
    (STATIC + 'endpoint = "10.0.4.11:8000"', "endpoint: expected an origin such as http://10.0.4.11:8000, got"),
    (STATIC + 'endpoint = "http://a:1/v1"', "endpoint: an origin has no path: leave out '/v1'"),
    (STATIC + 'endpoint = "http://a:1"\ncommand = ["{port}"]', 'command: not for provider "static"'),
    (PROCESS, 'command: a machine of provider "process" needs one, such as ["vllm", "serve", "…", "{port}"]'),
    (PROCESS + 'command = ["vllm"]', 'command: nothing in it says "{port}": the engine would not know where to listen'),
    (
        PROCESS + 'command = ["{port}"]\nendpoint = "http://a:1"',
        'endpoint: not for provider "process": it follows from {port}',
    ),
]


@pytest.mark.parametrize(("text", "expected"), MACHINE_FAULTS)
def test_a_machine_that_cannot_be_is_told(text: str, expected: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        _read(text)
    assert str(refused.value).startswith(f"f.toml: machine[1] (m): {expected}")


def test_an_account_that_is_missing_and_an_instance_named_twice_are_told() -> None:
    twice = '[[machine]]\nid = "n"\ntier = "t"\nendpoint = "http://b:1"\ninstance = "i-1"\n'
    text = EC2.replace('[provider.ec2]\nregion = "r"\n', "") + 'instance = "i-1"\n' + twice
    with pytest.raises(Misconfigured) as refused:
        _read(text)
    assert str(refused.value).splitlines() == [
        'f.toml: provider.ec2: a tier of provider "ec2" needs it: name its region',
        "f.toml: machine[2] (n): instance: 'i-1' is machine 'm'",
    ]
    with pytest.raises(Misconfigured, match=r'provider\.hyperstack: a tier of provider "hyperstack" needs it'):
        _read(text.replace('provider = "ec2"', 'provider = "hyperstack"'))


@pytest.mark.parametrize(
    ("url", "good"),
    [("http://api.example", False), ("", False), ("https://api.example/v1", True), ("http://[::1]:9/v1", True)],
)
def test_a_key_goes_nowhere_in_the_clear(url: str, good: bool) -> None:
    text = f'[provider.hyperstack]\nbase_url = "{url}"'
    if good:
        _read(text)
        return
    with pytest.raises(Misconfigured, match=r"provider\.hyperstack\.base_url: the key goes there: expected https://"):
        _read(text)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(Misconfigured) as refused:
        _read('[gateway]\nport = -1\n[[model]]\nname = "m"\nlineup = []')
    assert len(str(refused.value).splitlines()) == 2


def test_a_missing_file_and_an_unreadable_one(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="no such file: name another with --config or SPOTINFERENCE_CONFIG"):
        load(tmp_path / "f.toml")
    (tmp_path / "f.toml").write_bytes(b"\xff")
    with pytest.raises(Misconfigured, match="not UTF-8 at its byte 0"):
        load(tmp_path / "f.toml")


def test_the_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_another_database_is_refused() -> None:
    with pytest.raises(Misconfigured, match=r"database\.url: expected sqlite"):
        database_url(_read('[database]\nurl = "mysql://h/d"'), Path("/data"), "x")


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("10s", 10), ("1.5m", 90), ("2h", 7200), ("1d", 86400), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "-1s", "1 s", "1h30m", "s", "1e3s", "1w", 10, None, True])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        Duration.parse(text)


@given(st.decimals(min_value=0, max_value=10**9, places=12))
def test_money_is_exact(amount: Decimal) -> None:
    assert Money.parse(f"{amount:f}") == amount


@pytest.mark.parametrize("text", ["", "NaN", "Infinity", "-0.01", "1,00", "$5", 5, 5.0, None])
def test_what_is_no_money(text: object) -> None:
    with pytest.raises(ValueError, match="expected an amount"):
        Money.parse(text)


def test_a_path_is_read() -> None:
    config = parse(
        '[database]\nurl_file = "/run/url"\n[[tier]]\nname = "a"\nprovider = "static"\nkey_file = "k"\n', "f"
    )
    assert config.database.url_file == Path("/run/url")
    assert config.tier[0].key_file == Path("k")
    with pytest.raises(Misconfigured, match=r"tier\[1\]\.key_file"):
        parse('[[tier]]\nname = "a"\nprovider = "static"\nkey_file = ""\n', "f")


def test_an_engines_key_goes_to_its_own_endpoint_alone(tmp_path: Path) -> None:
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
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    text = f'[[tier]]\nname = "a"\nprovider = "static"\nkey_file = "{tmp_path}/key"\n'
    with pytest.raises(Misconfigured, match="tier 'a': key_file"):
        EngineKeys(parse(text, "f"))
