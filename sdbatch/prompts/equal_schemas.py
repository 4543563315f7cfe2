"""Equal schemas of many files as one object."""

from __future__ import annotations

import pyarrow as pa

from sdbatch.prompts.types import plain_schema

__all__ = ["EqualSchemas"]


class EqualSchemas:
    """Derives the plain schema of each file, and keeps equal ones as one object.

    So a plan of many files stays small, and comparing their schemas takes no time.
    """

    def __init__(self) -> None:
        self._plain: dict[bytes, pa.Schema] = {}  # by the original schema, serialised

    def plain(self, schema: pa.Schema) -> pa.Schema:
        """The `plain_schema` of a file's own."""
        key = _serialised(schema)
        found = self._plain.get(key)
        if found is None:
            plain = plain_schema(schema)
            found = self._plain[key] = self._plain.setdefault(_serialised(plain), plain)
        return found


def _serialised(schema: pa.Schema) -> bytes:
    return schema.serialize().to_pybytes()
