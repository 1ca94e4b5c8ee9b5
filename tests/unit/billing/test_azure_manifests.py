"""Azure's exports: the newest run of each export and period, with exactly the parts that its manifest lists."""

import json
from typing import Any

import pytest

from services.billing.core.invoice_files.manifests import DeliveryPlan, plan_deliveries
from shared.errors import Rejected

SEPTEMBER = "20260901-20260930"


def manifest(
    *parts: str,
    submitted: str = "2026-10-02T06:00:00Z",
    export: str = "focus",
    run: str = "r1",
    size: int = 10,
    total: int | None = None,
) -> bytes:
    blobs = [{"blobName": part, "byteCount": size, "dataRowCount": 1} for part in parts]
    fields: dict[str, Any] = {
        "byteCount": size * len(parts) if total is None else total,
        "exportConfig": {"exportName": export, "type": "FocusCost"},
        "runInfo": {"submittedTime": submitted, "runId": run, "startDate": "2026-09-01T00:00:00"},
        "blobs": blobs,
    }
    return json.dumps(fields).encode()


def planned(files: dict[str, bytes]) -> list[tuple[str, ...]]:
    return [plan.files for plan in plan_deliveries(list(files), files.__getitem__)]


def run(folder: str, **fields: Any) -> dict[str, bytes]:
    """One run in a folder: its manifest and a part."""
    content = manifest(f"container/{folder}/part_0.csv", **fields)
    return {f"{folder}/manifest.json": content, f"{folder}/part_0.csv": b""}


@pytest.mark.parametrize("root", ["focus/", "deep/er/focus/", ""])
def test_of_several_runs_of_a_period_the_newest_counts_whatever_its_name(root: str) -> None:
    old = run(f"{root}{SEPTEMBER}/zz", submitted="2026-09-06T06:00:00.1234567Z")
    new = run(f"{root}{SEPTEMBER}/aa", submitted="2026-09-06T06:00:00.2Z")
    assert planned(old | new) == [(f"{root}{SEPTEMBER}/aa/part_0.csv",)]


def test_a_folder_that_is_one_period_has_runs_too() -> None:
    old, new = run("zz", submitted="2026-09-06T06:00:00Z", run="zz"), run("aa", submitted="2026-09-07", run="aa")
    assert planned(old | new) == [("aa/part_0.csv",)]


def test_a_run_that_is_overwritten_each_day_has_no_folder_of_its_own() -> None:
    assert planned(run(f"focus/{SEPTEMBER}")) == [(f"focus/{SEPTEMBER}/part_0.csv",)]
    assert planned({"manifest.json": manifest("a/./part_0.csv", run="."), "part_0.csv": b""}) == [("part_0.csv",)]


def test_two_exports_and_two_periods_are_deliveries_of_their_own_the_newest_last() -> None:
    files = run(f"b/{SEPTEMBER}/r", export="b", submitted="2026-10-01T00:00:00Z")
    files |= run(f"a/{SEPTEMBER}/r", export="a", submitted="2026-10-03T00:00:00Z")
    files |= run("a/20260801-20260831/r", export="a", submitted="2026-09-02T00:00:00Z")
    assert [one[0].rpartition("/")[0] for one in planned(files)] == [
        "a/20260801-20260831/r",
        f"b/{SEPTEMBER}/r",
        f"a/{SEPTEMBER}/r",
    ]


def test_missing_listed_part_stays_listed_and_is_not_taken_from_another_run() -> None:
    files = run(f"{SEPTEMBER}/a", submitted="2026-09-06T06:00:00Z") | run(f"{SEPTEMBER}/b")
    del files[f"{SEPTEMBER}/b/part_0.csv"]
    assert plan_deliveries(list(files), files.__getitem__) == (
        DeliveryPlan((), (f"container/{SEPTEMBER}/b/part_0.csv",)),
    )


def test_sizes_are_checked_where_the_manifest_adds_up() -> None:
    def sizes(name: str, **fields: Any) -> dict[str, int]:
        files = {"manifest.json": manifest(f"x/{name}", "x/part_1.csv", **fields), name: b"", "part_1.csv": b""}
        (plan,) = plan_deliveries(list(files), files.__getitem__)
        return dict(plan.sizes)

    assert sizes("part_0.csv") == {"part_0.csv": 10, "part_1.csv": 10}
    assert sizes("part_0.csv.gz") == {"part_1.csv": 10}
    assert sizes("part_0.csv", total=1234) == {}


@pytest.mark.parametrize("submitted", ["", "yesterday", "2026-13-01T00:00:00Z"])
def test_a_run_without_a_time_is_refused_by_name(submitted: str) -> None:
    files = run(f"{SEPTEMBER}/r", submitted=submitted)
    with pytest.raises(Rejected, match=r"20260901-20260930/r/manifest\.json: runInfo\.submittedTime"):
        planned(files)


def test_a_manifest_alone_is_no_invoice() -> None:
    (plan,) = plan_deliveries(["manifest.json"], lambda _: manifest("a/part_0.csv"))
    assert plan == DeliveryPlan((), ("a/part_0.csv",))
    (plan,) = plan_deliveries(["cur-Manifest.json"], lambda _: b'{"reportKeys": ["a/cur-1.csv.gz"]}')
    assert plan == DeliveryPlan((), ("a/cur-1.csv.gz",))


def test_a_manifest_may_begin_with_a_byte_order_mark() -> None:
    files = run(f"focus/{SEPTEMBER}/aa")
    name = f"focus/{SEPTEMBER}/aa/manifest.json"
    assert planned(files | {name: b"\xef\xbb\xbf" + files[name]}) == planned(files)
