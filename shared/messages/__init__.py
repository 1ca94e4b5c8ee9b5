"""Everything that crosses the bus, one module per publishing service.

Messages are frozen and keyword-only, tagged with their name and version, and may only grow: a new field has a
default, a type never changes. Recorded examples of every version live in `tests/contract/messages/` and must still
decode.
"""
