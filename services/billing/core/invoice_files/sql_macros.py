"""DuckDB's macros that the SQL of `cells` and `forms` stands on: an invoice's text as exact values, or why not."""

import re

from services.billing.core.money import PLACES

MAX_INTEGER_DIGITS = 15
MAX_QUANTITY_PLACES = 30
MAX_TAGS = 500
"""The most tags of a charge: Google, which allows the most, has some 200 from resource, project and system."""
RESIDUE_PLACES = 37
"""Decimals kept of what rounding takes away: more than a binary number of any usual size has as text."""

BLANK_CHARACTERS = "".join(
    chr(code)
    for first, last in (
        *((0x01, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x061C, 0x061C), (0x1680, 0x1680), (0x180E, 0x180E)),
        *((0x2000, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
    )
    for code in range(first, last + 1)
)
"""White space, control characters, invisible ones and the byte order mark: what is cut from the ends of a text."""

_TEMPLATE = r"""
-- A text as it was delivered but for what nobody sees at its ends; what files write where there is nothing is null.
-- To trim is slow: most texts begin and end with a letter or a sign of ASCII, and need none of it.
is_bare(x) AS regexp_matches(x, '^[!-~]') AND regexp_matches(x, '[!-~]$');
bare(x) AS trim(x, E':blank');
known(x) AS CASE WHEN is_bare(x) THEN CASE WHEN x <> 'NULL' THEN x END
    WHEN bare(x) NOT IN ('', 'NULL') THEN bare(x) END;
quoted(x) AS chr(39) || left(x, 100) || chr(39);

-- A number in parts: -12.50e-3 has the digits 125, and its point is one place before them.
-- A lambda makes DuckDB bind a part, and work it out, once.
is_number(x) AS regexp_full_match(x, '-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?');
parts(x) AS regexp_extract(x, '^-?(\d*)\.?(\d*)(?:[eE](.*))?$', ['whole', 'fraction', 'exponent']);
number_of(x) AS list_transform([parts(x)], lambda p: {'digits': rtrim(p.whole || p.fraction, '0'),
    'point': length(p.whole) + coalesce(try_cast(nullif(p.exponent, '') AS INTEGER), 0)})[1];
needed_decimals(n) AS length(n.digits) - n.point;
integer_digits(n) AS length(ltrim(n.digits, '0')) - needed_decimals(n);

-- The same as plain text before and behind the point: -0 and 0125.
minus(x) AS CASE WHEN left(x, 1) = '-' THEN '-' ELSE '' END;
before(n) AS CASE WHEN n.digits = '' OR n.point <= 0 THEN '0'
    ELSE rpad(left(n.digits, n.point), CAST(n.point AS INTEGER), '0') END;
behind(n) AS CASE WHEN n.digits = '' THEN '' WHEN n.point <= 0 THEN repeat('0', -n.point) || n.digits
    ELSE substr(n.digits, n.point + 1) END;
plain(x) AS list_transform([number_of(x)], lambda n: {'before': minus(x) || before(n), 'behind': behind(n)})[1];

-- Such a text p, rounded to :places decimals: half to even.
cut(p, places) AS p.before || '.' || left(p.behind, places);
rest(p) AS substr(p.behind, :places + 1);
raised(p) AS CASE WHEN rest(p) > '5' OR (rest(p) = '5' AND substr(p.behind, :places, 1) IN ('1', '3', '5', '7', '9'))
    THEN CAST(minus(p.before) || ':unit' AS DECIMAL(:places, :places)) ELSE 0 END;
rounded(p) AS try_cast(cut(p, :places) AS DECIMAL(38, :places)) + raised(p);
lost(p) AS try_cast(minus(p.before) || '0.' || repeat('0', :places) || left(rest(p), :residue - :places)
    AS DECIMAL(38, :residue)) - raised(p);
cost_of(x) AS CASE WHEN regexp_full_match(x, '-?\d{0,:digits}(\.\d{0,:places})?')
    THEN try_cast(x AS DECIMAL(38, :places))
    ELSE list_transform([plain(x)], lambda p: rounded(p))[1] END;
residue_of(x) AS CASE WHEN NOT regexp_full_match(x, '-?\d*(\.\d{0,:places})?')
    THEN list_transform([plain(x)], lambda p: CASE WHEN rest(p) <> '' THEN lost(p) END)[1] END;
quantity_of(x) AS CASE WHEN regexp_full_match(x, '-?\d*(\.\d{0,:quantity})?') THEN x
    ELSE list_transform([plain(x)], lambda p: cut(p, :quantity))[1] END;
number_fault(x, places) AS CASE
    WHEN regexp_full_match(x, '-?\d{1,:digits}(\.\d{0,:places})?') THEN NULL
    WHEN NOT is_number(x)
        THEN 'expected a number such as "12.5" or "35.2E-7", without signs of thousands, got ' || quoted(x)
    ELSE list_transform([number_of(x)], lambda n: CASE
        WHEN n.digits = '' THEN NULL
        WHEN integer_digits(n) > :digits
            THEN left(x, 100) || ' has more than :digits digits before the point: correct it'
        WHEN needed_decimals(n) > places
            THEN left(x, 100) || ' has more than ' || places || ' decimals and cannot be kept exactly: '
                || 'have it rounded (--round, or `round = true` of its [[billing.source]])' END)[1] END;

-- Times are UTC, as milliseconds since 1970; what is finer is cut off. A day alone is its midnight.
moment_text(x) AS CASE WHEN regexp_full_match(x, '\d{4}-\d\d-\d\d'
        || '([Tt ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,12})?)?( ?(Z|z|UTC|GMT|[+-]00(:?00)?))?)?')
    THEN left(x, 10) || ' ' || coalesce(nullif(substr(x, 12, 5), ''), '00:00')
        || coalesce(nullif(regexp_extract(substr(x, 17), '^:\d\d'), ''), ':00') END;
is_far(x) AS NOT left(x, 4) BETWEEN '1970' AND '9998';
fraction(x) AS rpad(regexp_extract(x, '\.(\d+)', 1), 3, '0');
moment_of(x) AS epoch_ms(try_cast(moment_text(x) AS TIMESTAMP)) + try_cast(left(fraction(x), 3) AS BIGINT);
moment_fault(x) AS CASE
    WHEN moment_text(x) IS NULL THEN 'expected a UTC time such as "2026-05-31T00:00:00Z", got ' || quoted(x)
    WHEN try_cast(moment_text(x) AS TIMESTAMP) IS NULL THEN 'no such time: ' || quoted(x)
    WHEN is_far(x) THEN 'not between the years 1970 and 9998: ' || quoted(x) END;
day_of(x) AS epoch_ms(try_cast(CASE WHEN regexp_full_match(x, '\d{4}-\d\d-\d\d') THEN x END AS DATE));
day_fault(x) AS CASE WHEN x IS NOT NULL AND day_of(x) IS NULL
    THEN 'expected a UTC day such as "2026-05-31", got ' || quoted(x)
    WHEN is_far(x) THEN 'not between the years 1970 and 9998: ' || quoted(x) END;
day_start(ms) AS ms - ((ms % 86400000) + 86400000) % 86400000;
month_start(ms) AS epoch_ms(date_trunc('month', make_timestamp(ms * 1000)));
next_month(ms) AS epoch_ms(date_trunc('month', make_timestamp(ms * 1000)) + INTERVAL 1 MONTH);

-- Azure writes the same id in different capitals.
is_azure(id) AS starts_with(lower(id), '/subscriptions/');
comparable(id) AS CASE WHEN is_azure(id) THEN lower(id) ELSE id END;
last_part(id) AS regexp_extract(id, '[^/:]*$');

-- Tags are an object, or an array of objects with a key and a value each: of equal keys the first one counts.
-- DuckDB's reader of JSON is lenient: what it has read is written anew, as a flat object of texts.
tags_json(x) AS try_cast(CASE WHEN left(x, 1) = '"' THEN '{' || x || '}' ELSE x END AS JSON);
is_nested(v) AS coalesce(json_type(v) IN ('OBJECT', 'ARRAY'), false);
is_flat(j) AS len(list_filter(json_extract(j, '$.*'), lambda v: is_nested(v))) = 0;
pair_key(e) AS coalesce(json_extract_string(e, '$.key'), json_extract_string(e, '$.Key'));
pair_value(e) AS coalesce(json_extract(e, '$.value'), json_extract(e, '$.Value'));
is_pair(e) AS (json_exists(e, '$.key') OR json_exists(e, '$.Key')) AND NOT is_nested(pair_value(e));
pairs(j) AS list_transform(list_filter(try_cast(j AS JSON[]), lambda e: pair_key(e) IS NOT NULL),
    lambda e: {'k': pair_key(e), 'v': json_extract_string(pair_value(e), '$')});
keys(entries) AS list_transform(entries, lambda entry: entry.k);
first_of_each(entries) AS list_transform([keys(entries)], lambda all_keys: list_filter(entries,
    lambda entry, place: list_position(all_keys, entry.k) = place))[1];
distinct_keys(entries) AS CASE WHEN len(list_distinct(keys(entries))) = len(entries) THEN entries
    ELSE first_of_each(entries) END;
tag_map(j) AS CASE json_type(j)
    WHEN 'OBJECT' THEN try_cast(j AS MAP(VARCHAR, VARCHAR))
    WHEN 'ARRAY' THEN map_from_entries(list_transform([pairs(j)], lambda entries: distinct_keys(entries))[1]) END;
tags_fault(x) AS CASE
    WHEN json_type(tags_json(x)) = 'NULL' THEN NULL
    WHEN greatest(json_array_length(tags_json(x)), len(json_keys(tags_json(x)))) > :tags
        THEN 'more than :tags tags: export fewer of them'
    WHEN json_type(tags_json(x)) = 'OBJECT' AND is_flat(tags_json(x)) AND tag_map(tags_json(x)) IS NOT NULL THEN NULL
    WHEN json_type(tags_json(x)) = 'ARRAY' AND len(list_filter(try_cast(tags_json(x) AS JSON[]),
        lambda e: NOT coalesce(is_pair(e), false))) = 0 THEN NULL
    ELSE 'expected one flat JSON object, or an array of flat objects with "key" and "value", got ' || quoted(x) END;
"""

_FILLED_IN = (
    _TEMPLATE.replace(":places", str(PLACES))
    .replace(":unit", f"0.{'1':0>{PLACES}}")
    .replace(":digits", str(MAX_INTEGER_DIGITS))
    .replace(":residue", str(RESIDUE_PLACES))
    .replace(":tags", str(MAX_TAGS))
    .replace(":quantity", str(MAX_QUANTITY_PLACES))
    .replace(":blank", BLANK_CHARACTERS.replace("\n", "\\n").replace("\r", "\\r"))
)
CREATE_MACROS_SQL = re.sub(r"^(?=\w)", "CREATE MACRO ", _FILLED_IN, flags=re.MULTILINE)
"""Creates all of them."""
