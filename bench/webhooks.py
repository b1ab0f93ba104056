"""Webhooks stored and dispatched per second beside a bare endpoint, and the log when it is large.

    python -m bench.webhooks [--rounds 5] [--requests 4000] [--rows 1000000] [--searched 200000]

The bare endpoint is a quart-trio application that answers 200, served as ours is. Both take the same signed requests
over the same connections, in turn. Ours judges the signature, writes the row and begins a run before it answers.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
import trio

from bench.__main__ import World
from gateway.ids import new_token
from gateway.keyring import KeyRing, generate_key
from gateway.postgres.embedded import open_embedded

CONNECTIONS = 32
SECRET = "not-a-real-secret-1"
PERSON = "bench@example.invalid"
PASSWORD = "not-a-real-password"
BODY_BYTES = 1_000


@dataclass
class Figures:
    """What one side did, round by round: requests per second, and the latencies of all requests in seconds."""

    rates: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def rate(self) -> float:
        return statistics.median(self.rates)

    def p99_ms(self) -> float:
        return 1000 * statistics.median(self.p99)


# --- the load ---------------------------------------------------------------------------------------------------------


def request(path: str, number: int) -> bytes:
    """A signed delivery with a name of its own, of about a kilobyte."""
    frame = json.dumps({"action": "opened", "number": number, "order": uuid4().hex, "text": ""})
    words = " ".join(f"word{number % 97 + place}" for place in range(BODY_BYTES // 8))
    body = frame.replace('"text": ""', f'"text": "{words[: BODY_BYTES - len(frame)]}"').encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nX-GitHub-Event: issues\r\n"
        f"X-GitHub-Delivery: {uuid4()}\r\nX-Hub-Signature-256: sha256={signature}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def load(url: str, path: str, count: int, connections: int = CONNECTIONS) -> tuple[float, float]:
    """Send `count` requests over so many connections; returns the rate and the 99th percentile in seconds."""
    where = urlsplit(url)
    waiting = [request(path, number) for number in range(count)]
    took: list[float] = []

    async def send_all() -> None:
        stream = await trio.open_tcp_stream(where.hostname or "", where.port or 0)
        async with stream:
            while waiting:
                started = time.perf_counter()
                await stream.send_all(waiting.pop())
                await expect_200(stream)
                took.append(time.perf_counter() - started)

    begun = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(send_all)
    elapsed = time.perf_counter() - begun
    return count / elapsed, sorted(took)[int(len(took) * 0.99)]


async def expect_200(stream: trio.SocketStream) -> None:
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = await stream.receive_some(65_536)
        if not data:
            raise RuntimeError("the server closed the connection")
        answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"refused: {answer[:300]!r}: the figure would mean nothing")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += await stream.receive_some(65_536)


# --- the two sides ----------------------------------------------------------------------------------------------------


async def serve_bare() -> None:
    """The endpoint that everything is measured by. Prints where it listens."""
    from quart import Response
    from quart import request as current
    from quart_trio import QuartTrio

    from gateway.http.server import serve_http

    app = QuartTrio("bare")

    @app.post("/hook")
    async def hook() -> Response:
        await current.get_data(cache=False)
        return Response(b'{"status":"accepted"}', mimetype="application/json")

    async with trio.open_nursery() as nursery:
        url = await nursery.start(
            lambda task_status: serve_http(app, "127.0.0.1:0", stop=trio.Event(), task_status=task_status)
        )
        print(json.dumps({"event": "ready", "http": url}), flush=True)


@contextmanager
def serving(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """A server process; yields its URL once it says that it is ready."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b'"ready"' in line:
                yield str(json.loads(line)["http"])
                return
        raise RuntimeError(f"{command[1:]} ended before it was ready")
    finally:
        process.terminate()
        process.wait(30)


@dataclass
class Place:
    """A workspace with one autopilot that starts runs, and a signed webhook for it."""

    workspace_id: str
    autopilot_id: UUID
    trigger_id: UUID
    token: str

    @property
    def path(self) -> str:
        return f"/api/webhooks/autopilots/{self.token}"


def settle(world: World) -> Place:
    world.cli("admin", "user", "add", PERSON, "--password-stdin", stdin=f"{PASSWORD}\n")
    workspace = world.cli("admin", "workspace", "add", "Hooks", "--prefix", "HOO", "--owner", PERSON)
    runtime = world.cli("admin", "runtime", "add", "hooks", "machine")
    agent = world.cli("admin", "agent", "add", "hooks", "Echo", "--runtime", str(runtime["id"]))
    place = Place(str(workspace["id"]), uuid4(), uuid4(), new_token("awt_"))
    secret_id = uuid4()
    with psycopg.connect(world.conninfo, autocommit=True) as database:
        database.execute("update agent_runtime set last_heartbeat_at = now() + interval '1 day'")
        database.execute(
            "insert into autopilot"
            " (id, workspace_id, title, assignee_id, execution_mode, created_by_id, assigned_by_id)"
            " select %s, %s, 'Bench', %s, 'run_only', id, id from app_user where email = %s",
            (place.autopilot_id, place.workspace_id, agent["id"], PERSON),
        )
        database.execute(
            "insert into autopilot_trigger (id, workspace_id, autopilot_id, kind, webhook_token, provider)"
            " values (%s, %s, %s, 'webhook', %s, 'github')",
            (place.trigger_id, place.workspace_id, place.autopilot_id, place.token),
        )
        database.execute(
            "insert into webhook_signing_secret (id, workspace_id, trigger_id, secret_encrypted, last_four)"
            " values (%s, %s, %s, %s, 'et-1')",
            (
                secret_id,
                place.workspace_id,
                place.trigger_id,
                KeyRing.parse(world.key).seal_text(SECRET, owner=secret_id),
            ),
        )
    return place


# --- what is measured -------------------------------------------------------------------------------------------------


async def contest(world: World, place: Place, rounds: int, requests: int) -> tuple[Figures, Figures]:
    """(ours, the bare endpoint), alternating."""
    environment = world.environment | {"GATEWAY_WEBHOOKS__PER_TOKEN_PER_MINUTE": "0", "GATEWAY_LOG__FORMAT": "json"}
    sides = [
        (Figures(), [sys.executable, "-m", "gateway", "serve"], place.path),
        (Figures(), [sys.executable, "-m", "bench.webhooks", "--serve-bare"], "/hook"),
    ]
    for number in range(rounds):
        for figures, command, path in sides:
            with serving(command, environment) as url:
                await load(url, path, max(1, requests // 10))
                rate, p99 = await load(url, path, requests)
            figures.rates.append(rate)
            figures.p99.append(p99)
            print(f"round {number + 1}: {path[:16]}: {rate:,.0f}/s, p99 {1000 * p99:.1f} ms", flush=True)
    return sides[0][0], sides[1][0]


def fill(world: World, place: Place, first: int, last: int) -> None:
    """Write settled deliveries of these numbers into the log, as they would be."""
    with psycopg.connect(world.conninfo, autocommit=True) as database:
        database.execute(
            "insert into webhook_delivery (id, workspace_id, autopilot_id, trigger_id, provider, event, status,"
            " signature_status, dedupe_key, raw_body, created_at)"
            " select gen_random_uuid(), %s, %s, %s, 'github', 'github.issues.opened', 'dispatched', 'valid',"
            " 'fill-' || n, convert_to(json_build_object('number', n, 'order', 'ord' || md5(n::text))::text, 'UTF8'),"
            " now() - n * interval '1 second' from generate_series(%s::bigint, %s) as n",
            (place.workspace_id, place.autopilot_id, place.trigger_id, first, last),
        )


async def get_json(client: object, path: str) -> tuple[dict[str, object], float]:
    """An authenticated page of the log over HTTP, and how long it took in milliseconds."""
    started = time.perf_counter()
    response = await client.get(path)  # type: ignore[attr-defined]
    took = 1000 * (time.perf_counter() - started)
    response.raise_for_status()
    return dict(response.json()), took


async def median_ms(client: object, path: str, check: Callable[[dict[str, object]], bool], times: int = 9) -> float:
    figures = []
    for _ in range(times):
        page, took = await get_json(client, path)
        if not check(page):
            raise RuntimeError(f"{path} answered {str(page)[:200]}")
        figures.append(took)
    return statistics.median(figures)


async def measure_log(world: World, place: Place, rows: int) -> dict[str, float]:
    """Milliseconds over HTTP of the first page with its total, of a rare status, and of searches."""
    import httpx2

    token = str(world.cli("admin", "token", "add", "--user", PERSON)["token"])
    base = f"/api/autopilots/{place.autopilot_id}/deliveries"
    middle = hashlib.md5(str(rows // 2).encode()).hexdigest()
    with serving([sys.executable, "-m", "gateway", "serve"], world.environment) as url:
        async with httpx2.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
            return {
                "first page and total": await median_ms(client, base, lambda page: int(str(page["total"])) >= rows),
                "a status nobody has": await median_ms(
                    client, f"{base}?status=failed", lambda page: page["total"] == 0
                ),
                "search by token": await median_ms(client, f"{base}?q=ord{middle}", lambda page: page["total"] == 1),
                "search by prefix": await median_ms(
                    client, f"{base}?q=ord{middle[:12]}", lambda page: page["total"] == 1
                ),
            }


async def main(arguments: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with open_embedded(Path(folder) / "state") as conninfo:
            world = World(conninfo, "http://127.0.0.1:9", generate_key())
            place = await trio.to_thread.run_sync(settle, world)
            ours, bare = await contest(world, place, arguments.rounds, arguments.requests)
            lines = [
                "| | requests/s | p99 ms |",
                "|---|---|---|",
                f"| gateway: judged, stored, run begun | {ours.rate():,.0f} | {ours.p99_ms():.1f} |",
                f"| bare quart-trio endpoint | {bare.rate():,.0f} | {bare.p99_ms():.1f} |",
                "",
                f"{100 * ours.rate() / bare.rate():.0f} % of the bare endpoint; {CONNECTIONS} connections, "
                f"medians of {arguments.rounds} rounds of {arguments.requests} requests. Floor: 40 %.",
                "",
            ]
            filled = 0
            for rows in sorted({arguments.searched, arguments.rows} - {0}):
                await trio.to_thread.run_sync(fill, world, place, filled + 1, rows)
                filled = rows
                for what, took in (await measure_log(world, place, rows)).items():
                    lines.append(f"- {rows:,} rows: {what}: {took:.1f} ms")
            return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--searched", type=int, default=200_000)
    parser.add_argument("--serve-bare", action="store_true", help="only serve the bare endpoint")
    options = parser.parse_args()
    if options.serve_bare:
        trio.run(serve_bare)
    else:
        print(trio.run(main, options))
