"""What many bots in one process cost: memory each, the time until all are connected, the time until all are released.

    python -m bench.fleet [--counts 500,2000] [--rounds 3]

Memory is the daemon's RSS with so many connected bots more than with one, each in a process of its own and 5 s after
the last of them connected. Prints medians.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import trio

from bench.__main__ import World, add_installations, gateway_command, resident_bytes, running
from bench.platform import Platform, open_platform
from gateway.keyring import KeyRing, generate_key
from gateway.postgres.embedded import open_embedded

SETTLING_SECONDS = 5.0
IDLE_SECONDS = 12.0


@dataclass
class Stay:
    """One process from its start to its end. Seconds, bytes; `transactions` are the database's per idle second."""

    connected: float
    resident: int
    transactions: float
    released: float
    gone: float


def activate(database: psycopg.Connection, count: int) -> None:
    """Let exactly `count` installations be served."""
    database.execute(
        "update channel_installation i set status = case when r.n <= %s then 'active' else 'revoked' end"
        " from (select id, row_number() over (order by created_at, id) as n from channel_installation) r"
        " where r.id = i.id",
        (count,),
    )


def number(database: psycopg.Connection, query: str) -> int:
    row = database.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def held(database: psycopg.Connection) -> int:
    return number(database, "select count(*) from channel_installation where ws_lease_token is not null")


def committed(database: psycopg.Connection) -> int:
    database.execute("select pg_stat_clear_snapshot()")
    return number(database, "select xact_commit from pg_stat_database where datname = current_database()")


async def until(reached: Callable[[], bool]) -> float:
    """Seconds until something came true."""
    begun = time.perf_counter()
    async with asyncio.timeout(180):
        while not reached():
            await asyncio.sleep(0.02)
    return time.perf_counter() - begun


async def stay(platform: Platform, world: World, database: psycopg.Connection, count: int) -> Stay:
    activate(database, count)
    with running(gateway_command(world), world.environment) as process:
        connected = await until(lambda: len(platform.connections) == count)
        await asyncio.sleep(SETTLING_SECONDS)
        resident = resident_bytes(process.pid)
        before = committed(database)
        await asyncio.sleep(IDLE_SECONDS)
        transactions = (committed(database) - before) / IDLE_SECONDS
        process.terminate()
        begun = time.perf_counter()
        released = await until(lambda: held(database) == 0 or process.poll() is not None)
        await until(lambda: process.poll() is not None)
        return Stay(connected, resident, transactions, released, time.perf_counter() - begun)


async def measure(conninfo: str, counts: list[int], rounds: int) -> None:
    async with open_platform() as platform:
        world = World(conninfo, platform.base_url, generate_key())
        await asyncio.to_thread(world.settle)
        add_installations(world, KeyRing.parse(world.key), max(counts))
        stays: dict[int, list[Stay]] = {count: [] for count in [0, *counts]}
        with psycopg.connect(conninfo, autocommit=True) as database:
            for _ in range(rounds):
                for count, seen in stays.items():
                    seen.append(await stay(platform, world, database, count + 1))
                    print(count + 1, seen[-1], flush=True)
    print("\n".join(table(stays)))


def table(stays: dict[int, list[Stay]]) -> list[str]:
    def median(count: int, of: Callable[[Stay], float]) -> float:
        return statistics.median(of(one) for one in stays[count])

    lines = [
        "| bots | RSS KiB each | all connected after s | idle transactions/s | all released after s | exit after s |",
        "|---|---|---|---|---|---|",
    ]
    for count in [count for count in stays if count]:
        each = (median(count, lambda one: one.resident) - median(0, lambda one: one.resident)) / count / 1024
        lines.append(
            f"| {count:,} | {each:.1f} | {median(count, lambda one: one.connected):.1f} | "
            f"{median(count, lambda one: one.transactions):.0f} | {median(count, lambda one: one.released):.2f} | "
            f"{median(count, lambda one: one.gone):.2f} |"
        )
    return lines


async def main(counts: list[int], rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with open_embedded(Path(folder) / "state") as conninfo:
            await trio.to_thread.run_sync(lambda: asyncio.run(measure(conninfo, counts, rounds)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="500,2000")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    trio.run(main, [int(count) for count in options.counts.split(",")], options.rounds)
