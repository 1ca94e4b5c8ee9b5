"""Files of one delivery that repeat each other: two snapshots of one billing period, not parts of one. SQL as text.

Equal charges are legal and rare, even in two parts of one export. A later snapshot repeats nearly all of the earlier
one. So a file counts as a duplicate if at least half of its charges of one issuer, account and billing period are in
other files too. Two charges are equal if their `COMPARED_FIELDS` are. Fields that a restatement may fill in later are
not compared: invoice numbers, tags, effective and list costs. Charges that cost nothing are left out: counting them
twice changes nothing.
"""

from services.billing.core.invoice_files.schema import SNAPSHOT_KEY

COMPARED_FIELDS = (
    "charge_start",
    "charge_end",
    "billed",
    "currency",
    "category",
    "charge_class",
    "resource_id",
    "service_name",
    "consumed_quantity",
    "consumed_unit",
)
_KEY_COLUMNS = ", ".join(SNAPSHOT_KEY)


def count_charges_sql(charges: str, file: int, *, parts: bool) -> str:
    """SQL for the table `seen`'s rows of one file: how many charges there are of each key, and of each kind alike.

    Of `parts` no charge is compared.
    """
    same = f"CASE WHEN billed <> 0 THEN hash({', '.join(COMPARED_FIELDS)}) END"
    return (
        f"SELECT {file} AS file, {_KEY_COLUMNS}, CAST({'NULL' if parts else same} AS UBIGINT) AS same, count(*) AS n "
        f"FROM {charges} GROUP BY ALL"
    )


def duplicate_files_sql(limit: int) -> str:
    """SQL over `seen` for the files that repeat others: `file`, key, how many of its charges, and of how many."""
    return f"""
        WITH compared AS (SELECT * FROM seen WHERE same IS NOT NULL),
        everywhere AS (SELECT {_KEY_COLUMNS}, same, sum(n) AS n FROM compared GROUP BY ALL HAVING count(*) > 1),
        shared AS (
            SELECT file, {_KEY_COLUMNS}, sum(least(compared.n, everywhere.n - compared.n)) AS shared
            FROM compared JOIN everywhere USING ({_KEY_COLUMNS}, same) GROUP BY ALL),
        whole AS (SELECT file, {_KEY_COLUMNS}, sum(n) AS n FROM compared GROUP BY ALL)
        SELECT file, {_KEY_COLUMNS}, CAST(shared AS BIGINT), CAST(n AS BIGINT)
        FROM shared JOIN whole USING (file, {_KEY_COLUMNS}) WHERE shared * 2 >= n ORDER BY ALL LIMIT {limit}"""


DUPLICATED_FILE_SQL = f"""
    SELECT b.file FROM seen AS a JOIN seen AS b USING ({_KEY_COLUMNS}, same)
    WHERE a.file = $file AND b.file <> $file AND ({_KEY_COLUMNS}) = ($issuer, $account, $period_start, $period_end)
    GROUP BY ALL ORDER BY sum(least(a.n, b.n)) DESC, b.file LIMIT 1"""
"""SQL over `seen` for the file that has most of the charges of `$file`."""
