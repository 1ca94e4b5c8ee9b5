"""The books' tables as queries see them; `migrations/` makes them. Moments are milliseconds since 1970."""

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, MetaData, Table, Text

from shared.database import ExactDecimal

_metadata = MetaData()

snapshots = Table(
    "snapshots",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("source", Text),
    Column("issuer", Text),
    Column("account", Text),
    Column("period_start", BigInteger),
    Column("period_end", BigInteger),
    Column("sha256", Text),
    Column("active", Boolean),
    Column("imported_at", Double),
    Column("currency", Text),
    Column("rows", BigInteger),
    Column("terms", Text),
    Column("delivery", Integer),
    Column("residue", Text),
    Column("reread", Text),
    Column("usual_day", ExactDecimal),
    Column("warnings", Text),
)
"""One per import, (issuer, account, billing period) and currency; only active ones count.

The others stay as evidence, without their charges. `sha256` is that of the files with charges of it: of one file its
own, of several that of their hashes. `rows` counts as delivered. `terms` is the digest of what reading depended on
besides the files. `delivery` numbers those that came together, in the order in which they came; reading them again
keeps it. `residue` is what rounding took away, as an exact decimal; null where no cost was rounded. `reread` says why
it was read again; null where it was not. `usual_day` is the median of what its days cost, in `currency`; null before
migration 0003. `warnings` is JSON: what looked wrong when it was imported.
"""

snapshot_invoices = Table(
    "snapshot_invoices",
    _metadata,
    Column("snapshot_id", Integer, primary_key=True),
    Column("invoice_id", Text, primary_key=True),
    Column("billed", ExactDecimal),
)
"""A snapshot's charges by invoice, in its currency; an empty id is that of charges without one."""

snapshot_files = Table(
    "snapshot_files",
    _metadata,
    Column("snapshot_id", Integer, primary_key=True),
    Column("sha256", Text, primary_key=True),
    Column("file_name", Text),
)
"""The files that a snapshot was read from; they lie unchanged in the object store `invoices`, by their hash."""

cost_rows = Table(
    "cost_rows",
    _metadata,
    Column("id", BigInteger, primary_key=True),
    Column("snapshot_id", Integer),
    Column("charge_start", BigInteger),
    Column("charge_end", BigInteger),
    Column("billed", ExactDecimal),
    Column("effective", ExactDecimal),
    Column("list_cost", ExactDecimal),
    Column("category", Text),
    Column("charge_class", Text),
    Column("service_category", Text),
    Column("resource_id", Text),
    Column("tags", Text),
    Column("invoice_id", Text),
    Column("consumed_quantity", Text),
    Column("consumed_unit", Text),
    Column("currency", Text),
    Column("per_usd", Text),
    Column("parent_id", Text),
    Column("service_name", Text),
    Column("rows", BigInteger),
)
"""Charges: sums of `rows` delivered ones that are alike in all but their amounts.

A charge of no machine that lies within one UTC day stands there with the whole day as its charge period.
`per_usd` is how much of `currency` was one USD: the rate in force when it was read.
"""

transitions = Table(
    "transitions",
    _metadata,
    Column("id", BigInteger, primary_key=True),
    Column("machine", Text),
    Column("at", BigInteger),
    Column("to_state", Text),
    Column("from_state", Text),
    Column("tier", Text),
    Column("reason", Text),
    Column("wake_id", Text),
    Column("key_id", Text),
)
"""The fleet's journal, as far as states go; one row per machine, moment and state, however often it was told."""

revisions = Table(
    "revisions",
    _metadata,
    Column("day", Text, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("report", Text),
    Column("inputs", Text),
    Column("digest", Text),
    Column("made_at", Double),
)
"""Every report that was ever told, with what it was made from; append-only."""

payables = Table(
    "payables",
    _metadata,
    Column("id", BigInteger, primary_key=True),
    Column("source", Text),
    Column("issuer", Text),
    Column("invoice_id", Text),
    Column("amount", ExactDecimal),
    Column("voids", Text),
    Column("noted_at", Double),
    Column("account", Text),
    Column("period_start", BigInteger),
    Column("period_end", BigInteger),
)
"""What the invoices say is to be paid, as noted; append-only, the newest of an invoice counts.

With an empty `invoice_id` it is for the charges of `account` in that billing period that name no invoice.
"""

accruals = Table(
    "accruals",
    _metadata,
    Column("machine", Text, primary_key=True),
    Column("hour", BigInteger, primary_key=True),
    Column("amount", ExactDecimal),
    Column("basis", Text),
    Column("since", BigInteger),
    Column("through", BigInteger),
)
"""What a machine has cost in the UTC hour that begins at `hour`, by its provider's running bill: USD, for the time from
`since` to `through` alone. `basis` says whose bill."""

meters = Table(
    "meters",
    _metadata,
    Column("resource", Text, primary_key=True),
    Column("cumulative", ExactDecimal),
    Column("at", BigInteger),
)
"""The last reading of a provider's running bill for a resource: the next one is subtracted from it."""

fleets = Table(
    "fleets",
    _metadata,
    Column("since", BigInteger, primary_key=True),
    Column("content", Text),
)
"""What the configuration said of machines, tiers and prices from `since` until the next row, as JSON; append-only."""

bands = Table(
    "bands",
    _metadata,
    Column("model", Text, primary_key=True),
    Column("day", Text, primary_key=True),
    Column("low", ExactDecimal),
    Column("high", ExactDecimal),
    Column("basis", Text),
)
"""A model's price band in USD per million tokens from the start of a day on; append-only. `basis`: why, as JSON."""

band_days = Table("band_days", _metadata, Column("day", Text, primary_key=True), Column("made_at", Double))
"""The days on which bands were made; unchanged ones have no row."""
