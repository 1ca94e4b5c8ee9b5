"""What is one delivery: exactly the files of a manifest, or all of a folder without one."""

import json

import pytest

from services.billing.core.invoice_files.manifests import DeliveryPlan, plan_deliveries
from shared.errors import Rejected

MAY = "focus/metadata/BILLING_PERIOD=2026-05/focus-Manifest.json"
JUNE = "focus/metadata/BILLING_PERIOD=2026-06/focus-Manifest.json"
DATA = "focus/data/BILLING_PERIOD=2026-05/focus-00001.snappy.parquet"
MORE = "focus/data/BILLING_PERIOD=2026-05/focus-00002.snappy.parquet"
LATER = "focus/data/BILLING_PERIOD=2026-06/focus-00001.snappy.parquet"


def manifest(*keys: str, field: str = "dataFiles") -> bytes:
    return json.dumps({"exportArn": "arn:aws:x", field: keys}).encode()


def test_without_a_manifest_all_files_of_a_folder_are_one_delivery() -> None:
    names = ["b.csv", "a/a.csv", ".hidden", "_SUCCESS", "a/.DS_Store", "metadata/schema.json"]
    assert plan_deliveries(names, str.encode) == (DeliveryPlan(("a/a.csv", "b.csv")),)


def test_an_empty_folder_is_refused() -> None:
    with pytest.raises(Rejected, match="no invoice file"):
        plan_deliveries([".hidden"], str.encode)


def test_each_manifest_is_a_delivery_of_the_files_that_it_lists() -> None:
    manifests = {MAY: manifest(f"s3://bucket/exports/{DATA}"), JUNE: manifest(f"s3://bucket/exports/{LATER}")}
    plans_made = plan_deliveries([DATA, MORE, LATER, "focus/readme.txt", *manifests], manifests.__getitem__)
    assert plans_made == (DeliveryPlan((DATA,), (DATA,)), DeliveryPlan((LATER,), (LATER,)))


def test_case_3_missing_file_stays_listed() -> None:
    plans_made = plan_deliveries([MAY, DATA], lambda _: manifest(f"s3://bucket/{DATA}", f"s3://bucket/{MORE}"))
    assert plans_made == (DeliveryPlan((DATA,), (DATA, f"s3://bucket/{MORE}")),)


def test_keys_are_matched_without_regard_to_case_and_below_any_prefix() -> None:
    names = ["Metadata/billing_period=2026-05/X-MANIFEST.JSON", "data/billing_period=2026-05/x.parquet", "x.parquet"]
    (plan,) = plan_deliveries(names, lambda _: manifest("s3://b/deep/er/data/BILLING_PERIOD=2026-05/x.parquet"))
    assert plan.files == ("data/billing_period=2026-05/x.parquet",)


def test_of_several_refreshes_of_a_period_the_last_counts() -> None:
    old, new = (f"e/metadata/BILLING_PERIOD=2026-05/2026-05-0{n}T00:00:00.000Z-x/e-Manifest.json" for n in (1, 2))
    files = [f"e/data/BILLING_PERIOD=2026-05/2026-05-0{n}T00:00:00.000Z-x/e-1.csv.gz" for n in (1, 2)]
    content = {old: manifest(files[0]), new: manifest(files[1])}
    assert plan_deliveries([*files, old, new], content.__getitem__) == (DeliveryPlan((files[1],), (files[1],)),)


def test_the_older_form_of_manifests_is_read_too() -> None:
    assert plan_deliveries([MAY, DATA], lambda _: manifest(DATA, field="reportKeys")) == (
        DeliveryPlan((DATA,), (DATA,)),
    )


@pytest.mark.parametrize("content", [b"", b"[]", b'{"dataFiles": "x"}', b"{}", b'{"dataFiles": []}'])
def test_a_broken_manifest_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(Rejected, match=r"focus-Manifest\.json"):
        plan_deliveries([MAY, DATA], lambda _: content)
