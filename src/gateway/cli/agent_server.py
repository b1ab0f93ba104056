"""The client of the gateway's API that `agent run` uses.

It knows several addresses of one gateway, and tolerates failures of the network and of proxies on the way.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import httpx2
import msgspec
import structlog
import trio

from gateway import __version__
from gateway.errors import GatewayError

T = TypeVar("T")

logger = structlog.get_logger(__name__)

CALL_SECONDS = 15.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""The longest answer. A task with all its messages is far shorter; a longer answer does not come from a gateway."""
RETRY_FIRST_SECONDS = 0.5
RETRY_MAX_SECONDS = 30.0
DOWNLOAD_SECONDS = 60.0
"""The time for one file, all tries together. The server itself may take 45 s to fetch the file from the platform."""
DOWNLOAD_TRIES = 3


class ServerRefused(GatewayError):
    """The server refuses this runtime altogether. Trying again would not help."""


class Rejected(GatewayError):
    """The server refused one call: the task is not this runtime's any more, or is in the wrong state."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(str(body.get("error", "no reason given")))
        self.status = status
        self.body = body


class OwnRuntime(msgspec.Struct):
    id: UUID
    name: str


class Claimed(msgspec.Struct, frozen=True):
    """The identity of a claim. Reports and heartbeats name claims by it."""

    id: UUID
    attempt: int


class TaskHead(msgspec.Struct, frozen=True):
    """The part of a task that the worker reads. The rest goes from the server to the program unread."""

    id: UUID
    attempt: int
    deadline: Annotated[datetime, msgspec.Meta(tz=True)]

    @property
    def key(self) -> Claimed:
        return Claimed(self.id, self.attempt)


class ClaimedTask(msgspec.Struct, frozen=True):
    """A claimed task as its program gets it (`task`), and the longest time that the run may take (`seconds`)."""

    head: TaskHead
    task: bytes
    seconds: float


class _ClaimAnswer(msgspec.Struct):
    task: msgspec.Raw


class _Reported(msgspec.Struct):
    status: str


class _HeartbeatAnswer(msgspec.Struct):
    stop: list[Claimed] = []


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """An answer that was read to its end. `date` is its Date header."""

    status: int
    content: bytes
    date: str = ""


class _Away(Exception):
    """A failure that may pass, so the call is tried again. It never leaves Server."""


class _Stranger(_Away):
    """An answer that no gateway gives: another program listens at the address, for now or for good."""


class Server:
    """One gateway behind one or more addresses, all with the same token.

    Calls go to one address as long as it answers, and then to the next. While no gateway answers they are repeated
    until cancelled, with pauses of at most 30 s. An answer that does not come from a gateway counts as none: it may
    come from a proxy that is still being set up. Raises ServerRefused if a gateway does not accept the token, and
    Rejected for any other refusal of a gateway.
    """

    def __init__(self, clients: Sequence[httpx2.AsyncClient]) -> None:
        self._clients = clients
        self._current = 0

    async def register(self, description: Mapping[str, object]) -> OwnRuntime:
        """Register the runtime.

        Raises ServerRefused also if none of the addresses is a gateway's: at the start `--server` is probably wrong.
        """
        try:
            return await self._ask("/api/runtimes/register", _registered, description, expected=True)
        except Rejected as error:
            raise ServerRefused(f"this server does not register the runtime ({error.status}): {error}") from error

    async def heartbeat(self, runtime_id: UUID, tasks: Sequence[Claimed]) -> list[Claimed]:
        """Report the claims that are worked on. Returns those to stop: cancelled, or given to another worker."""
        try:
            return await self._ask(f"/api/runtimes/{runtime_id}/heartbeat", _to_stop, {"tasks": tasks})
        except Rejected as error:
            raise ServerRefused(f"this runtime is not known any more ({error})") from error

    async def claim(self, runtime_id: UUID, instance: str, wait_seconds: float) -> ClaimedTask | None:
        path = f"/api/runtimes/{runtime_id}/tasks/claim"
        try:
            return await self._ask(path, _claimed, {"instance": instance}, wait_seconds=wait_seconds)
        except Rejected as error:
            raise ServerRefused(f"this runtime may not claim any more ({error})") from error

    async def report(self, claimed: Claimed, action: str, **fields: object) -> str:
        """Report on a task in the name of its claim. Returns the status that the task has now.

        Raises Rejected if the claim is not this worker's any more or the task is in the wrong state.
        """
        body = {"attempt": claimed.attempt, **fields}
        return await self._ask(f"/api/tasks/{claimed.id}/{action}", _status, body)

    async def _ask(
        self,
        path: str,
        read: Callable[[ServerAnswer], T],
        body: Mapping[str, object],
        *,
        wait_seconds: float = 0.0,
        expected: bool = False,
    ) -> T:
        """Call until a gateway answers, and return `read(answer)`. `read` raises _Stranger for any other answer.

        With `expected` there must be a gateway at one of the addresses right now. If not, this raises ServerRefused.
        """
        failures, strangers = 0, 0
        while True:
            at = self._current
            try:
                return read(await self._post_once(at, path, body, wait_seconds))
            except (httpx2.HTTPError, httpx2.StreamError, trio.TooSlowError, _Away) as error:
                failures += 1
                strangers = strangers + 1 if isinstance(error, _Stranger) else 0
                if expected and strangers >= len(self._clients):
                    raise ServerRefused(
                        f"this server does not register runtimes; is it a gateway? ({error})"
                    ) from error
                self._move_on(at)
                pause = self._pause(failures)
                server = str(self._clients[at].base_url)
                logger.warning("server_away", server=server, reason=_reason(error), retry_seconds=round(pause, 1))
                await trio.sleep(pause)

    def _move_on(self, from_: int) -> None:
        """Switch to the next address, unless another call has switched already."""
        if self._current == from_:
            self._current = (from_ + 1) % len(self._clients)

    def _pause(self, failures: int) -> float:
        """Return the seconds to wait before the next try; 0 until every address has failed as often as the others."""
        rounds, left = divmod(failures, len(self._clients))
        if left:
            return 0.0
        pause = min(RETRY_FIRST_SECONDS * 2.0 ** min(rounds - 1, 10), RETRY_MAX_SECONDS)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 (spreads retries, nothing secret)

    async def _post_once(self, at: int, path: str, body: Mapping[str, object], wait_seconds: float) -> ServerAnswer:
        seconds = CALL_SECONDS + wait_seconds
        # The client's own timeout bounds a single read, and an answer may arrive byte by byte.
        with trio.fail_after(2 * seconds):
            async with self._clients[at].stream(
                "POST",
                path,
                content=msgspec.json.encode(body),
                params={"wait_seconds": f"{wait_seconds:g}"} if wait_seconds else None,
                headers={"Content-Type": "application/json"},
                timeout=seconds,
            ) as response:
                answer = await _read(response)
        if response.is_success:
            return answer
        raise _refusal(answer)

    async def download(self, claimed: Claimed, n: int, path: Path) -> bool:
        """Save a file of a task to `path`. Returns False if that failed after a few tries: a run can do without it."""
        with trio.move_on_after(DOWNLOAD_SECONDS):
            for left in reversed(range(max(DOWNLOAD_TRIES, len(self._clients)))):
                at = self._current
                try:
                    await self._download_once(at, claimed, n, path)
                except (httpx2.HTTPError, httpx2.StreamError, _Away, GatewayError, OSError) as error:
                    logger.warning("attachment_not_fetched", task_id=str(claimed.id), n=n, reason=_reason(error))
                    if not left or isinstance(error, GatewayError | OSError):
                        return False
                    self._move_on(at)
                    await trio.sleep(random.uniform(0.5, 1.0))  # noqa: S311 (spreads retries, nothing secret)
                else:
                    return True
        logger.warning(
            "attachment_not_fetched", task_id=str(claimed.id), n=n, reason=f"not within {DOWNLOAD_SECONDS:g} s"
        )
        return False

    async def _download_once(self, at: int, claimed: Claimed, n: int, path: Path) -> None:
        url = f"/api/tasks/{claimed.id}/attachments/{n}"
        query = {"attempt": str(claimed.attempt)}
        async with self._clients[at].stream("GET", url, params=query, timeout=DOWNLOAD_SECONDS) as response:
            if not response.is_success:
                raise _refusal(await _read(response))
            with path.open("wb") as file:
                # The write does not await, so a cancellation can only hit the read, and that closes the answer.
                async for chunk in response.aiter_raw():
                    file.write(chunk)


@asynccontextmanager
async def open_server(urls: Sequence[str], token: str) -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        clients = [
            httpx2.AsyncClient(
                base_url=url.rstrip("/"),
                headers={"Authorization": f"Bearer {token}", "User-Agent": f"gateway-agent/{__version__}"},
                timeout=CALL_SECONDS,
                # A proxy that the environment names cannot reach this machine's loopback.
                trust_env=not is_loopback(url),
            )
            for url in urls
        ]
        for client in clients:
            await stack.enter_async_context(client)
        yield Server(clients)


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


async def _read(response: httpx2.Response) -> ServerAnswer:
    content = bytearray()
    async with aclosing(response.aiter_bytes()) as chunks:
        async for chunk in chunks:
            content += chunk
            if len(content) > ANSWER_BYTES_MAX:
                raise _Stranger(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
    return ServerAnswer(response.status_code, bytes(content), response.headers.get("Date", ""))


def _refusal(answer: ServerAnswer) -> Exception:
    """Return the exception for an answer that is no success.

    ServerRefused and Rejected are only for errors that have a gateway's shape. Anything else may pass, and is tried
    again.
    """
    if answer.status in {408, 425, 429} or answer.status >= 500:
        return _Away(f"status {answer.status}")
    try:
        body = _object(answer)
    except _Stranger:
        body = {}
    if not isinstance(body.get("code"), str) or "error" not in body:
        return _Stranger(f"status {answer.status}, and not from a gateway")
    if answer.status in {401, 403}:
        return ServerRefused(f"the server does not accept this token ({answer.status}): {body['error']}")
    return Rejected(answer.status, body)


def decoded(content: bytes, kind: type[T]) -> T:
    """Decode an answer. Raises _Stranger unless it is JSON of that shape, as every answer of a gateway is."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Stranger("the answer is not a gateway's") from error


def _object(answer: ServerAnswer) -> dict[str, Any]:
    return decoded(answer.content, dict[str, Any])


def _status(answer: ServerAnswer) -> str:
    return decoded(answer.content, _Reported).status


def _registered(answer: ServerAnswer) -> OwnRuntime:
    return decoded(answer.content, OwnRuntime)


def _to_stop(answer: ServerAnswer) -> list[Claimed]:
    return decoded(answer.content, _HeartbeatAnswer).stop


def _claimed(answer: ServerAnswer) -> ClaimedTask | None:
    task = bytes(decoded(answer.content, _ClaimAnswer).task)
    if task == b"null":
        return None
    head = decoded(task, TaskHead)
    return ClaimedTask(head, task, seconds_left(head, answer.date))


def seconds_left(head: TaskHead, date: str) -> float:
    """Return the seconds until the deadline, by the server's clock: this machine's may be wrong by any amount.

    Without a readable `date` this machine's clock is used.
    """
    try:
        now = parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        now = datetime.now(UTC)
    # HTTP dates are in UTC, even if the zone is left out.
    now = now if now.tzinfo is not None else now.replace(tzinfo=UTC)
    return max((head.deadline - now).total_seconds(), 0.0)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
