"""The event stream on a real socket: who may open it, what it says, and how it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any

import httpx2
import pytest
import trio

from gateway.http.api import events
from gateway.http.places import RETRY_SECONDS, PlaceLimits
from gateway.http.server import serve_http
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.work.feed import Feed
from support.people import HOST, Office, open_office


@pytest.fixture
async def office(pool: Pool) -> Office:
    return await open_office(pool)


@asynccontextmanager
async def _served(office: Office) -> AsyncIterator[tuple[str, trio.Event]]:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(serve_http, office.app, "127.0.0.1:0", stop=stop))
        yield url, stop
        office.people.feed.end()
        stop.set()


@asynccontextmanager
async def _reading(office: Office, url: str, email: str, role: str | None = "member") -> AsyncIterator[Any]:
    """A response whose stream is open; signed in with a person's token."""
    person = await office.add_person(email, role)
    _, token = await office.people.directory.add_user_token(person)
    path = f"{url}/api/workspaces/{office.place.workspace_id}/events"
    headers = {"Authorization": f"Bearer {token}", "Host": HOST}
    async with httpx2.AsyncClient(timeout=10) as client, client.stream("GET", path, headers=headers) as response:
        yield response


async def test_stream_begins_with_resync_and_tells_what_is_announced(office: Office) -> None:
    with trio.fail_after(20):
        async with _served(office) as (url, _), _reading(office, url, "eve@acme.example") as response:
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            lines = response.aiter_lines()
            assert [await anext(lines) for _ in range(3)] == ["event: resync", "data: {}", ""]
            workspace = str(office.place.workspace_id)
            office.people.feed.publish(f'{{"event":"chat:done","workspace_id":"{workspace}","task_id":"t"}}')
            said = [await anext(lines) for _ in range(3)]
            assert said == ["event: chat:done", f'data: {{"workspace_id":"{workspace}","task_id":"t"}}', ""]
            office.people.feed.end()
            assert [line async for line in lines] == []


@pytest.mark.parametrize("email", ["stranger@other.example"])
async def test_stream_of_another_workspace_is_not_there(office: Office, email: str) -> None:
    with trio.fail_after(20):
        async with _served(office) as (url, _), _reading(office, url, email, role=None) as response:
            assert response.status_code == 404


async def test_stream_ends_with_the_server_and_does_not_hold_it_up(office: Office) -> None:
    with trio.fail_after(20):
        async with _served(office) as (url, stop), _reading(office, url, "eve@acme.example") as response:
            lines = response.aiter_lines()
            await anext(lines)
            office.people.feed.end()
            stop.set()
            assert [line async for line in lines] == ["data: {}", ""]


async def test_stream_ends_for_who_is_no_member_any_more(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BEAT_SECONDS", 0.05)
    with trio.fail_after(20):
        async with _served(office) as (url, _), _reading(office, url, "eve@acme.example") as response:
            lines = response.aiter_lines()
            while await anext(lines) != ": still here":
                pass
            await office.sql("delete from member where user_id <> %s", office.place.owner_id)
            assert all(line in {"", ": still here"} for line in [line async for line in lines])


async def _open_stream(stack: AsyncExitStack, url: str, path: str, token: str) -> bytes:
    """A stream on a connection of its own, open until the stack ends; the answer as far as its first event."""
    stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2])))
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith((b"}", b"\n\n\r\n")):
        answer += await stream.receive_some()
    return answer


async def test_streams_of_one_person_are_bounded_and_leave_room_for_others(office: Office) -> None:
    person, other = await office.add_person("eve@acme.example"), await office.add_person("bob@acme.example")
    _, one = await office.people.directory.add_user_token(person)
    _, another = await office.people.directory.add_user_token(other)
    path = f"/api/workspaces/{office.place.workspace_id}/events"
    with trio.fail_after(20):
        async with _served(office) as (url, _):
            async with AsyncExitStack() as stack:
                for _ in range(PlaceLimits().streams_of_person):
                    assert b" 200 " in await _open_stream(stack, url, path, one)
                refused = await _open_stream(stack, url, path, one)
                assert b" 429 " in refused
                assert f"retry-after: {RETRY_SECONDS}" in refused.decode().lower()
                assert b" 200 " in await _open_stream(stack, url, path, another)
            async with AsyncExitStack() as stack:
                # It takes the server a moment to notice that a reader left.
                while b" 429 " in await _open_stream(stack, url, path, one):
                    await trio.sleep(0.05)


async def test_stream_of_a_removed_member_ends_at_once_and_others_go_on(office: Office, database: str) -> None:
    """With the real beat of 15 s: the removal itself is heard."""
    feed, directory = office.people.feed, office.people.directory
    async with trio.open_nursery() as nursery:
        await nursery.start(_hear, database, feed)
        with trio.fail_after(10):
            async with (
                _served(office) as (url, _),
                _reading(office, url, "eve@acme.example") as gone,
                _reading(office, url, "bob@acme.example") as stays,
            ):
                lines, others = gone.aiter_lines(), stays.aiter_lines()
                await anext(lines), await anext(others)
                place, eve = await directory.workspace("acme"), await directory.user("eve@acme.example")
                await directory.remove_member(place, eve)
                assert [line async for line in lines] == ["data: {}", ""]
                told = [await anext(others) for _ in range(4)]
                assert told[2] == "event: member:removed"
                assert str(eve.id) in told[3]
                feed.end()
                assert [line async for line in others] == [""]
        nursery.cancel_scope.cancel()


async def test_stream_ends_for_who_is_signed_out(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BEAT_SECONDS", 0.05)
    with trio.fail_after(20):
        async with _served(office) as (url, _), _reading(office, url, "eve@acme.example") as response:
            lines = response.aiter_lines()
            while await anext(lines) != ": still here":
                pass
            await office.sql("update api_token set revoked_at = now()")
            assert all(line in {"", ": still here"} for line in [line async for line in lines])


async def _hear(database: str, feed: Feed, *, task_status: trio.TaskStatus[None]) -> None:
    async with await TrioConnection.connect(database, autocommit=True) as conn:
        await conn.execute("listen gateway_event")
        task_status.started()
        async with aclosing(conn.notifies()) as notes:
            async for note in notes:
                feed.publish(note.payload)
