"""Deliveries from folders and from S3: whole or not at all, and only what has changed."""

import errno
import gzip
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, cast

import boto3
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.billing.adapters.file_sources import open_configured_source, open_file_source
from services.billing.app.deliveries import list_deliveries, upload_delivery
from services.billing.app.invoice_fetcher import InvoiceFetcher
from services.billing.app.invoice_importer import InvoiceImporter
from services.billing.metrics import Metrics
from services.billing.ports import FileSource
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus
from shared.bus.subjects import BILLING_IMPORT, BILLING_INVOICES
from shared.bus.topology import INVOICES, ObjectStore
from shared.config.invoices import InvoiceSource
from shared.errors import Rejected
from shared.messages.codec import decode, encode
from shared.messages.invoices import ImportAnswer, ImportRequest, Invoices, InvoicesQuery, RowError
from shared.messages.meter import ErrorReply
from shared.runtime.process import Runtime
from tests.integration.billing.billing_service import CONFIG, Billing, billing, configured
from tests.kit.moto_cloud import REGION, MotoCloud, moto_process
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.billing.cost_row_builders import focus_csv

CASES = Path(__file__).parents[2] / "cases/invoices"
JUNE = {
    "BillingPeriodStart": "2026-06-01T00:00:00Z",
    "BillingPeriodEnd": "2026-07-01T00:00:00Z",
    "ChargePeriodStart": "2026-06-03T00:00:00Z",
    "ChargePeriodEnd": "2026-06-04T00:00:00Z",
}


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Billing]:
    async with billing(tmp_path, configured()) as (service, _):
        yield service


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoCloud]:
    with moto_process() as cloud:
        yield cloud


@pytest.fixture
def s3(moto: MotoCloud, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client, and a bucket `bills`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    moto.reset()
    client = boto3.client("s3", region_name=REGION, endpoint_url=moto.endpoint_url)
    client.create_bucket(Bucket="bills")
    for item in client.list_objects_v2(Bucket="bills").get("Contents", ()):
        client.delete_object(Bucket="bills", Key=item["Key"])
    return client


def export(root: Path, period: str, *files: tuple[str, bytes], listed: tuple[str, ...] = ()) -> None:
    """A billing period as AWS lays it out; the manifest lists these and what is `listed` besides."""
    data = root / "data" / f"BILLING_PERIOD={period}"
    data.mkdir(parents=True, exist_ok=True)
    for name, content in files:
        (data / name).write_bytes(content)
    keys = [
        f"s3://bills/exports/{root.name}/data/BILLING_PERIOD={period}/{n}" for n in (*(f[0] for f in files), *listed)
    ]
    manifest = root / "metadata" / f"BILLING_PERIOD={period}" / f"{root.name}-Manifest.json"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"dataFiles": keys}))


async def imported(bus: Bus, where: FileSource, source: str = "aws") -> list[ImportAnswer]:
    answers, before = [], list[str]()
    for delivery in await list_deliveries(where):
        request = await upload_delivery(bus, where, delivery.plan, source, beside=before)
        answers.append(
            decode(await bus.request(BILLING_IMPORT, encode(request), timeout=PATIENCE_SECONDS), ImportAnswer)
        )
        before += [file.sha256 for file in request.files]
    return answers


async def test_a_folder_with_manifests_is_a_delivery_a_period(books: Billing, tmp_path: Path) -> None:
    root = tmp_path / "focus"
    export(
        root,
        "2026-05",
        ("f-1.csv.gz", gzip.compress(focus_csv({"BilledCost": "60"}))),
        ("f-2.csv", focus_csv({"BilledCost": "40"})),
    )
    export(root, "2026-06", ("f-1.csv", focus_csv({"BilledCost": "7", **JUNE})))
    (root / "data" / "BILLING_PERIOD=2026-05" / "left-over.csv").write_bytes(focus_csv({"BilledCost": "1000"}))
    may, june = await imported(books.bus, open_file_source(str(root)))
    assert [(s.rows, s.billed) for s in (*may.snapshots, *june.snapshots)] == [(2, Decimal(100)), (1, Decimal(7))]
    assert (await books.report()).spend == 100
    assert (await books.report("2026-06-03")).spend == 7


async def test_case_3_a_missing_file_keeps_the_whole_delivery_out(books: Billing, tmp_path: Path) -> None:
    root = tmp_path / "focus"
    await books.deliver(focus_csv({"BilledCost": "50"}), source="aws")
    before = await books.report()
    export(root, "2026-05", ("f-1.csv", focus_csv({"BilledCost": "60"})), listed=("f-2.csv",))
    (answer,) = await imported(books.bus, open_file_source(str(root)))
    assert not answer.snapshots
    assert [(r.file, r.line) for r in answer.refusals] == [
        ("s3://bills/exports/focus/data/BILLING_PERIOD=2026-05/f-2.csv", 0)
    ]
    assert "wait until" in answer.refusals[0].reason
    assert await books.report() == before


async def test_the_same_file_twice_in_a_delivery_is_refused_by_name(books: Billing, tmp_path: Path) -> None:
    for name in ("a.csv", "copy of a.csv"):
        (tmp_path / "bills").mkdir(exist_ok=True)
        (tmp_path / "bills" / name).write_bytes(focus_csv({}))
    (answer,) = await imported(books.bus, open_file_source(str(tmp_path / "bills")))
    assert [(r.file, r.reason) for r in answer.refusals] == [
        ("copy of a.csv", "the same file as a.csv: leave one of them out")
    ]


async def test_a_refreshed_month_leaves_the_others_alone(books: Billing, tmp_path: Path) -> None:
    root = tmp_path / "focus"
    export(root, "2026-05", ("f-1.csv", focus_csv({"BilledCost": "60"})))
    export(root, "2026-06", ("f-1.csv", focus_csv({"BilledCost": "7", **JUNE})))
    await imported(books.bus, open_file_source(str(root)))
    before = await books.report()
    export(root, "2026-06", ("f-1.csv", focus_csv({"BilledCost": "8", **JUNE})))
    may, june = await imported(books.bus, open_file_source(str(root)))
    assert [s.replaced for s in (*may.snapshots, *june.snapshots)] == [False, True]
    assert await books.report() == before
    assert (await books.report("2026-06-03")).spend == 8


@pytest.mark.parametrize(
    ("case", "rows", "billed"),
    [
        ("azure-one-run", 3, "19.50"),
        ("azure-two-runs", 3, "19.50"),
        ("pass-aws-focus-two-manifests", 2, "5.0000006123"),
    ],
)
async def test_an_export_folder_is_read_by_its_manifests(books: Billing, case: str, rows: int, billed: str) -> None:
    (answer,) = await imported(books.bus, open_file_source(str(CASES / case)))
    assert [(s.rows, s.billed) for s in answer.snapshots] == [(rows, Decimal(billed))], answer.refusals


@pytest.mark.parametrize("fault", ["missing", "shorter"])
async def test_a_part_that_is_missing_or_cut_off_is_refused_by_name(books: Billing, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "azure"
    shutil.copytree(CASES / "azure-one-run", folder)
    manifest, part = folder / "manifest.json", folder / "part_1_0001.csv"
    content = json.loads(manifest.read_text())
    for blob in content["blobs"]:
        blob["byteCount"] = (folder / Path(blob["blobName"]).name).stat().st_size
    content["byteCount"] = sum(blob["byteCount"] for blob in content["blobs"])
    manifest.write_text(json.dumps(content))
    if fault == "missing":
        part.unlink()
    else:
        part.write_text("".join(part.read_text().splitlines(keepends=True)[:1]))
    (answer,) = await imported(books.bus, open_file_source(str(folder)))
    (refusal,) = answer.refusals
    assert Path(refusal.file).name == part.name
    assert "wait until the delivery is complete" in refusal.reason


async def test_two_exports_of_the_same_charges_do_not_replace_each_other(books: Billing, tmp_path: Path) -> None:
    for export in ("a", "b"):
        shutil.copytree(CASES / "azure-one-run", tmp_path / "azure" / export)
        part = tmp_path / "azure" / export / "part_0_0001.csv"
        part.write_text(part.read_text().replace("gpu-17", f"gpu-{export}"))
    first, second = await imported(books.bus, open_file_source(str(tmp_path / "azure")))
    assert first.snapshots
    assert not second.snapshots
    assert "import one of the two exports alone" in second.refusals[0].reason


async def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="unreadable"):
        await list_deliveries(open_file_source(str(tmp_path / "nowhere.csv")))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("pipe", "a pipe, a device or a socket"),
        ("broken link", "No such file"),
        ("link to a folder", "a link to a folder"),
        ("locked folder", "Permission denied"),
    ],
)
async def test_what_cannot_be_read_is_not_left_out_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    folder, odd = tmp_path / "bills", tmp_path / "bills" / "b.csv"
    folder.mkdir()
    (folder / "a.csv").write_bytes(b"one")
    match kind:
        case "pipe":
            os.mkfifo(odd)
        case "broken link":
            odd.symlink_to("nowhere.csv")
        case "link to a folder":
            odd.symlink_to(tmp_path)
        case _:
            odd.mkdir()
            monkeypatch.setattr(os, "scandir", locked(odd))  # for root there is none
    with pytest.raises(Rejected, match=f"b.csv: .*{reason}"):
        await list_deliveries(open_file_source(str(folder)))
    odd.rmdir() if kind == "locked folder" else odd.rename(folder / ".hidden")
    assert [one.plan.files for one in await list_deliveries(open_file_source(str(folder)))] == [("a.csv",)]


def locked(folder: Path) -> Callable[[str], Any]:
    """`os.scandir`, which fails for that folder."""
    scandir = os.scandir

    def scan(path: str) -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    return scan


@pytest.mark.parametrize(
    ("name", "reason"), [("", "got an empty name"), ("x" * 300, "File name too long"), ("/dev/null", "a device")]
)
async def test_a_name_of_no_file_is_refused(name: str, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        await list_deliveries(open_file_source(name))


class BusyFolder(MemoryBus):
    """While a file is sent, something happens to it."""

    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self.change = change

    async def put_object(self, store: ObjectStore, name: str, data: bytes | BinaryIO) -> None:
        self.change()
        await super().put_object(store, name, data)


async def test_a_file_that_grows_while_it_is_sent_is_refused_and_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"one")
    (delivery,) = await list_deliveries(open_file_source(str(file)))
    bus = BusyFolder(lambda: file.write_bytes(b"one two"))
    with pytest.raises(Rejected, match="changed while it was read"):
        await upload_delivery(bus, open_file_source(str(file)), delivery.plan, "aws")
    assert await bus.get_object(INVOICES, hashlib.sha256(b"one").hexdigest()) is None


async def test_a_file_that_is_gone_when_it_is_sent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"one")
    (delivery,) = await list_deliveries(open_file_source(str(tmp_path)))
    (tmp_path / "a.csv").unlink()
    with pytest.raises(Rejected, match="No such file"):
        await upload_delivery(MemoryBus(), open_file_source(str(tmp_path)), delivery.plan, "aws")


async def test_a_file_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.csv")).write_bytes(b"one")
    (delivery,) = await list_deliveries(open_file_source(str(tmp_path)))
    with pytest.raises(Rejected, match="the name is not UTF-8"):
        await upload_delivery(MemoryBus(), open_file_source(str(tmp_path)), delivery.plan, "aws")


async def test_s3_is_a_folder_too(books: Billing, s3: Any, moto: MotoCloud, tmp_path: Path) -> None:
    root = tmp_path / "focus"
    export(root, "2026-05", ("f-1.csv", focus_csv({"BilledCost": "60"})), ("f-2.csv", focus_csv({"BilledCost": "1"})))
    for path in root.rglob("*.*"):
        s3.upload_file(str(path), "bills", f"exports/focus/{path.relative_to(root).as_posix()}")
    s3.put_object(Bucket="bills", Key="exports/other/data.csv", Body=b"not ours")
    for prefix in ("exports/focus/", "exports/focus", "exports/fo"):
        where = open_file_source(f"s3://bills/{prefix}", region=REGION, endpoint_url=moto.endpoint_url)
        (answer,) = await imported(books.bus, where)
        assert [(s.rows, s.billed) for s in answer.snapshots] == [(2, Decimal(61))]


async def test_an_object_that_changes_while_it_is_fetched_is_refused(s3: Any, moto: MotoCloud, tmp_path: Path) -> None:
    s3.put_object(Bucket="bills", Key="a.csv", Body=b"one")
    where = open_file_source("s3://bills", region=REGION, endpoint_url=moto.endpoint_url)
    assert list(where.list_files()) == ["a.csv"]
    s3.put_object(Bucket="bills", Key="a.csv", Body=b"another")
    with pytest.raises(Rejected, match="changed while it was fetched"):
        where.fetch("a.csv", tmp_path / "a")


async def test_a_bucket_that_is_not_there_is_named(s3: Any, moto: MotoCloud) -> None:
    where = open_file_source("s3://nobodys/x", region=REGION, endpoint_url=moto.endpoint_url)
    with pytest.raises(Rejected, match="NoSuchBucket"):
        await list_deliveries(where)


async def test_a_configured_source_is_fetched_by_the_leader(s3: Any, moto: MotoCloud, tmp_path: Path) -> None:
    s3.put_object(Bucket="bills", Key="may.csv", Body=focus_csv({"BilledCost": "60"}))
    config = configured(
        f'{CONFIG}[[billing.source]]\nname = "aws"\nurl = "s3://bills/"\nevery = "10s"\nregion = "{REGION}"\n'
        f'endpoint_url = "{moto.endpoint_url}"\n'
    )
    async with billing(tmp_path, config, MemoryBus()) as (books, runtime):
        await until(lambda: fetch_count(runtime, "good"), lambda n: n >= 1)
        assert (await books.report()).spend == 60
        assert runtime.registry.get_sample_value("spot_billing_delivered_at", {"source": "aws"}) == runtime.now()


class ImportDesk:
    """Takes what comes; refuses its content, or declines it, by word."""

    def __init__(self) -> None:
        self.taken: list[ImportRequest] = []
        self.refuses = False
        self.declines = False

    async def import_delivery(self, request: ImportRequest) -> ImportAnswer | ErrorReply:
        self.taken.append(request)
        if self.declines:
            return ErrorReply(reason="the books' database does not answer")
        faults = [RowError(file="a.csv", line=n, column="BilledCost", reason="empty") for n in range(2, 13)]
        return ImportAnswer(sha256="0", refusals=tuple(faults) if self.refuses else ())


async def test_a_refused_delivery_is_named_once_and_tried_again_when_it_has_changed(tmp_path: Path) -> None:
    desk, registry, clock = ImportDesk(), CollectorRegistry(), itertools.count(10.0, 10.0)
    folder = tmp_path / "bills"
    source = InvoiceSource(name="aws", url=str(folder))
    importer = cast("InvoiceImporter", desk)
    fetcher = InvoiceFetcher(
        MemoryBus(), source, open_configured_source, importer, Metrics(registry), now=lambda: next(clock)
    )
    with capture_logs() as logs:
        assert "unreadable" in str(await fetcher.poll())
        await fetcher.poll()
        folder.mkdir()
        (folder / "a.csv").write_bytes(b"one")
        for _ in range(2):
            assert await fetcher.poll() is None
        assert len(desk.taken) == 1
        desk.refuses = True
        (folder / "a.csv").write_bytes(b"another")
        for _ in range(2):
            assert await fetcher.poll() == "a.csv:2: BilledCost: empty"
    assert [request.files[0].sha256 for request in desk.taken[1:]] == [hashlib.sha256(b"another").hexdigest()]
    assert [(one["event"], one.get("faults")) for one in logs] == [
        ("invoice_source_unreadable", None),
        ("invoice_delivery_refused", 11),
    ]
    state = fetcher.state
    assert (state.looked_at, state.good_at, state.refused_at, state.deliveries) == (60, 40, 50, 1)
    assert state.reasons == tuple(f"a.csv:{line}: BilledCost: empty" for line in (2, 3, 4))
    assert registry.get_sample_value("spot_billing_delivered_at", {"source": "aws"}) == 40
    assert registry.get_sample_value("spot_billing_fetches_total", {"source": "aws", "outcome": "failed"}) == 4


async def test_a_delivery_that_billing_could_not_take_is_tried_again_as_it_is(tmp_path: Path) -> None:
    desk = ImportDesk()
    source = InvoiceSource(name="aws", url=str(tmp_path))
    importer = cast("InvoiceImporter", desk)
    fetcher = InvoiceFetcher(
        MemoryBus(), source, open_configured_source, importer, Metrics(CollectorRegistry()), now=lambda: 1.0
    )
    (tmp_path / "a.csv").write_bytes(b"one")
    desk.declines = True
    with capture_logs() as logs:
        await fetcher.poll()
        await fetcher.poll()
    assert [one["event"] for one in logs] == ["invoice_delivery_refused"]
    desk.declines = False
    assert await fetcher.poll() is None
    assert (len(desk.taken), fetcher.state.reasons) == (3, ())


async def test_a_source_that_fails_is_listed_with_its_reason(tmp_path: Path) -> None:
    config = configured(f'{CONFIG}[[billing.source]]\nname = "aws"\nurl = "{tmp_path}/nowhere"\n')
    async with billing(tmp_path, config) as (books, runtime):
        await until(lambda: fetch_count(runtime, "failed"), lambda n: n == 1)
        assert (await books.deliver(focus_csv({}))).snapshots  # all else goes on
        answer = await books.bus.request(BILLING_INVOICES, encode(InvoicesQuery()), timeout=PATIENCE_SECONDS)
        (state,) = decode(answer, Invoices).sources
        assert (state.name, state.looked_at, state.good_at) == ("aws", runtime.now(), None)
        assert state.reasons == (f"{tmp_path}/nowhere: unreadable: No such file or directory",)


async def fetch_count(runtime: Runtime, outcome: str) -> float:
    labels = {"source": "aws", "outcome": outcome}
    return runtime.registry.get_sample_value("spot_billing_fetches_total", labels) or 0.0
