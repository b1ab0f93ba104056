"""Array parameters of large values."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.types.array import ListBinaryDumper


class LargeValues(list[Any]):
    """A parameter that is an array of texts or bytes, sent in Postgres's binary format.

    psycopg sends a plain list as text, and finds what must be escaped in each value with a regular expression. For a
    webhook's body of 256 KiB that takes milliseconds of the event loop, and the copy is twice as large.
    """


psycopg.adapters.register_dumper(LargeValues, ListBinaryDumper)
