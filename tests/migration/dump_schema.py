"""Write schema.sql again from the chain of migrations: `python tests/migration/dump_schema.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

SCHEMA_FILE = Path(__file__).parents[2] / "schema.sql"


async def _dump(server: str) -> str:
    from gateway.postgres.migrate import dump_schema
    from support.database import fresh_database

    async with fresh_database(server) as conninfo:
        return await dump_schema(conninfo)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from support.database import running_server

    with running_server() as server:
        SCHEMA_FILE.write_text(trio.run(_dump, server))


if __name__ == "__main__":
    main()
