"""`/readyz` of a whole daemon, on a database that stops taking writes and takes them again."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx2
import trio
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from gateway.config import HttpSettings, Settings
from gateway.daemon.run import run_daemon
from gateway.observe.notify import Notifier
from support.database import execute_blocking

CHECKS = {"database", "write", "migrations", "leases", "bots"}


async def answer(client: httpx2.AsyncClient, *, status: int) -> Any:
    """The answer once it has that status; answers count for a second or more."""
    with trio.fail_after(20):
        while (response := await client.get("/readyz")).status_code != status:
            await trio.sleep(0.05)
    return response.json()


async def test_daemon_is_ready_exactly_while_its_database_takes_writes(postgres: str, database: str) -> None:
    name = conninfo_to_dict(database)["dbname"]
    sessions = f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    settings = Settings(database_url=SecretStr(database), http=HttpSettings(bind="127.0.0.1:0"))
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        ready = await nursery.start(partial(run_daemon, settings, stop=stop, notifier=Notifier({})))
        async with httpx2.AsyncClient(base_url=ready.http, trust_env=False) as client:
            well = await answer(client, status=200)
            assert well == {"status": "ok", "checks": dict.fromkeys(CHECKS, "ok"), "bots": {}}
            execute_blocking(postgres, f"alter database {name} set default_transaction_read_only = on")
            execute_blocking(postgres, sessions)
            unwell = await answer(client, status=503)
            assert unwell["status"] == "unavailable"
            assert unwell["checks"]["write"] == "the database is read-only"
            assert unwell["checks"]["database"] == "ok"
            execute_blocking(postgres, f"alter database {name} reset default_transaction_read_only")
            execute_blocking(postgres, sessions)
            assert await answer(client, status=200) == well
        stop.set()
