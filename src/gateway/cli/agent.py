"""`gateway agent`: plug any program in. One process per task, the task as JSON on stdin, the reply on stdout."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import httpx2
import msgspec
import structlog
import trio

from gateway import __version__
from gateway.cli.agent_process import Finished, run_program
from gateway.cli.output import config_option, print_json
from gateway.concurrency import finishing
from gateway.config import load_settings
from gateway.errors import GatewayError

logger = structlog.get_logger(__name__)

TOKEN_VARIABLE = "AGENT_TOKEN"  # noqa: S105 (the variable's name; GATEWAY_ ones belong to the daemon's configuration)
WAIT_SECONDS = 30
HEARTBEAT_SECONDS = 15.0
CALL_SECONDS = 15.0
EMPTY_CLAIM_SECONDS_MIN = 1.0
RETRY_FIRST_SECONDS = 0.5
RETRY_MAX_SECONDS = 30.0
REPORT_SECONDS = 5.0
"""What the last report of a task gets when the drain is over."""


class Refused(GatewayError):
    """The server will not talk to us at all; trying again would not help."""


class Rejected(GatewayError):
    """The server said no to one call: the task is not ours any more, or not in a state for it."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(str(body.get("error", "no reason given")))
        self.status = status
        self.body = body


class Runtime(msgspec.Struct):
    id: str
    name: str


class ClaimAnswer(msgspec.Struct):
    task: msgspec.Raw


class HeartbeatAnswer(msgspec.Struct):
    stop: list[str] = []


class Completion(msgspec.Struct):
    output: str


class Failure(msgspec.Struct):
    """Without a reason the server reads one from the error."""

    error: str
    failure_reason: str | None = None


class TaskHead(msgspec.Struct):
    """What the runner itself needs to know of a task; the rest is between the server and the program."""

    id: str
    attempt: int
    deadline: datetime


@click.group()
def agent() -> None:
    """Run agent programs against a server."""


@agent.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--server", required=True, metavar="URL", help="The gateway's address, such as http://127.0.0.1:8420.")
@click.option(
    "--token",
    envvar=TOKEN_VARIABLE,
    show_envvar=True,
    required=True,
    help="The runtime's token (gwr_...). Other users of this machine can read flags, but not variables.",
)
@click.option("--concurrency", default=1, show_default=True, type=click.IntRange(1, 64), help="Tasks at a time.")
@click.option(
    "--drain-seconds",
    default=20.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="How long running programs may go on after SIGTERM.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@config_option
def run(
    *, server: str, token: str, concurrency: int, drain_seconds: float, command: tuple[str, ...], config: Path | None
) -> None:
    """Work on tasks with COMMAND until SIGTERM.

    COMMAND is started once per task: it reads the task as JSON from stdin and writes its reply to stdout. Exit status 0
    is an answer, any other fails the task with the end of stderr. Of a configuration file only log.format is used.

    A program that keeps a memory of its own by the task's chat_session_id forgets it when context_generation is higher
    than before: somebody began afresh with /new.
    """
    from gateway.observe.log import configure_logging

    # Only a file that was asked for: the daemon's own need not be readable here.
    configure_logging(None if config is None else load_settings(config).log.format, level="INFO")
    _check_server(server)
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise click.BadParameter("this is not a runtime's token (gwr_...)", param_hint="--token")
    if shutil.which(command[0]) is None:
        raise click.BadParameter(f"{command[0]!r} is not a program that can be run", param_hint="COMMAND")
    trio.run(_run, Connection(server.rstrip("/"), token), command, concurrency, drain_seconds)


def _check_server(server: str) -> None:
    try:
        parts = urlsplit(server)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.query
        _ = parts.port
    except ValueError:
        sound = False
    if not sound:
        raise click.BadParameter("give an address such as http://127.0.0.1:8420", param_hint="--server")


async def _run(connection: Connection, command: Sequence[str], concurrency: int, drain_seconds: float) -> None:
    async with httpx2.AsyncClient(
        base_url=connection.url,
        headers={"Authorization": f"Bearer {connection.token}", "User-Agent": f"gateway-agent/{__version__}"},
        timeout=CALL_SECONDS,
        # A proxy of this machine's environment cannot reach this machine's loopback.
        trust_env=not _is_loopback(connection.url),
    ) as http:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await Worker(Server(http), command, concurrency, drain_seconds).run(signals)


@dataclass(frozen=True, slots=True)
class Connection:
    url: str
    token: str = field(repr=False)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Server:
    """The gateway's API. Calls are repeated while the server is away, at most every 30 s, until cancelled.

    Raises Refused when the token is not accepted, Rejected for any other no.
    """

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def post(self, path: str, body: object = None, *, wait_seconds: float = 0.0) -> httpx2.Response:
        failures = 0
        while True:
            try:
                return await self._post_once(path, body, wait_seconds)
            except (httpx2.TransportError, _Away) as error:
                failures += 1
                pause = min(RETRY_FIRST_SECONDS * 2.0 ** min(failures - 1, 10), RETRY_MAX_SECONDS)
                pause *= random.uniform(0.5, 1.0)  # noqa: S311 (spreads retries, nothing secret)
                logger.warning("server_away", reason=_reason(error), retry_seconds=round(pause, 1))
                await trio.sleep(pause)

    async def _post_once(self, path: str, body: object, wait_seconds: float) -> httpx2.Response:
        answer = await self._http.post(
            path,
            content=msgspec.json.encode({} if body is None else body),
            params={"wait_seconds": f"{wait_seconds:g}"} if wait_seconds else None,
            headers={"Content-Type": "application/json"},
            timeout=CALL_SECONDS + wait_seconds,
        )
        if answer.is_success:
            return answer
        if answer.status_code in {401, 403}:
            raise Refused(f"the server does not accept this token ({answer.status_code}): {_error_text(answer)}")
        if answer.status_code in {408, 425, 429} or answer.status_code >= 500:
            raise _Away(f"status {answer.status_code}")
        raise Rejected(answer.status_code, _error_body(answer))


class _Away(Exception):
    """An answer that may be another one later; never leaves Server."""


def _error_body(answer: httpx2.Response) -> Mapping[str, Any]:
    try:
        body = msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _error_text(answer: httpx2.Response) -> str:
    return str(_error_body(answer).get("error", "no reason given"))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


class Worker:
    """One runtime at work: claims tasks into its free slots and runs the program for each."""

    def __init__(self, server: Server, command: Sequence[str], concurrency: int, drain_seconds: float) -> None:
        self._server = server
        self._command = command
        self._concurrency = concurrency
        self._drain_seconds = drain_seconds
        self._slots = trio.Semaphore(concurrency, max_value=concurrency)
        self._running: dict[str, trio.CancelScope] = {}
        self._lost: set[str] = set()
        self._claiming = trio.CancelScope()
        self._silent = False
        self._runtime_id = ""
        # The program is not to act in the runtime's name.
        self._environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}

    async def run(self, signals: Any) -> None:
        """Until the first signal, and then for the drain; a second signal ends everything at once.

        Raises Refused when the server stops accepting the token.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey, signals, nursery.cancel_scope)
            await self._work()
            nursery.cancel_scope.cancel()

    async def _obey(self, signals: Any, everything: trio.CancelScope) -> None:
        async for _ in signals:
            if self._claiming.cancel_called:
                self._silent = True
                everything.cancel()
            self._claiming.cancel()

    async def _work(self) -> None:
        async with trio.open_nursery() as background:
            with trio.CancelScope() as drain:
                async with trio.open_nursery() as tasks:
                    with self._claiming:
                        await self._register()
                        background.start_soon(self._keep_alive)
                        await self._claim_forever(tasks)
                    logger.info("draining", tasks=len(self._running), seconds=self._drain_seconds)
                    drain.deadline = trio.current_time() + self._drain_seconds
            background.cancel_scope.cancel()

    async def _register(self) -> None:
        try:
            answer = await self._server.post("/api/runtimes/register", {"kind": "agent-run", "version": __version__})
            runtime = msgspec.json.decode(answer.content, type=Runtime)
        except (Rejected, msgspec.DecodeError) as error:
            raise Refused(f"this server does not register runtimes; is it a gateway? ({error})") from error
        self._runtime_id = runtime.id
        print_json(
            {"event": "ready", "runtime_id": runtime.id, "runtime": runtime.name, "concurrency": self._concurrency}
        )
        sys.stdout.flush()

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(HEARTBEAT_SECONDS)
            await self._heartbeat()

    async def _heartbeat(self) -> None:
        """Say what is being worked on, and stop what the server has given to somebody else or cancelled."""
        path = f"/api/runtimes/{self._runtime_id}/heartbeat"
        try:
            answer = await self._server.post(path, {"tasks": list(self._running)})
        except Rejected as error:
            raise Refused(f"this runtime is not known any more ({error})") from error
        for task_id in msgspec.json.decode(answer.content, type=HeartbeatAnswer).stop:
            if task_id in self._running:
                self._lost.add(task_id)
                self._running[task_id].cancel()

    async def _claim_forever(self, tasks: trio.Nursery) -> None:
        while True:
            await self._slots.acquire()
            asked = trio.current_time()
            answer = await self._server.post(f"/api/runtimes/{self._runtime_id}/tasks/claim", wait_seconds=WAIT_SECONDS)
            task = msgspec.json.decode(answer.content, type=ClaimAnswer).task
            if bytes(task) != b"null":
                head = msgspec.json.decode(task, type=TaskHead)
                tasks.start_soon(self._run_task, head, bytes(task), _seconds_left(head, answer))
                continue
            self._slots.release()
            # A server that is shutting down answers at once.
            await trio.sleep(max(asked + EMPTY_CLAIM_SECONDS_MIN - trio.current_time(), 0))

    async def _run_task(self, head: TaskHead, task: bytes, seconds: float) -> None:
        """One task is one unit of work: however it ends, its slot is free again and the server is told if it can be."""
        scope = self._running[head.id] = trio.CancelScope(deadline=trio.current_time() + seconds)
        logger.info("task_started", task_id=head.id, attempt=head.attempt)
        settled = False
        try:
            report = await self._outcome(head, task, scope)
            if report is not None:
                await self._report(head, report)
            settled = True
        except Rejected as error:
            settled = True
            logger.warning("task_given_up", task_id=head.id, reason=str(error))
        except Refused:
            settled = True
            raise
        except Exception:
            logger.exception("task_run_failed", task_id=head.id)
        finally:
            # A cancellation is not always a bare Cancelled here: nurseries may have put several into a group.
            if not settled:
                await self._hand_back(head)
            del self._running[head.id]
            self._lost.discard(head.id)
            self._slots.release()

    async def _outcome(self, head: TaskHead, task: bytes, scope: trio.CancelScope) -> Completion | Failure | None:
        """What to tell the server of a run; None when the task is not ours any more."""
        with scope:
            await self._heartbeat()
            await self._start(head)
            try:
                finished = await run_program(self._command, task + b"\n", environment=self._environment)
            except OSError as error:
                return Failure(f"the program could not be started: {error}", "agent_error.runtime_missing_executable")
            return judge_end(finished)
        if head.id in self._lost:
            logger.warning("task_lost", task_id=head.id)
            return None
        return Failure("the run went past its deadline and was stopped", "timeout")

    async def _start(self, head: TaskHead) -> None:
        try:
            await self._server.post(f"/api/tasks/{head.id}/start")
        except Rejected as error:
            # The answer to an earlier try was lost: this very claim is running already.
            if error.body.get("task_status") != "running":
                raise

    async def _report(self, head: TaskHead, report: Completion | Failure) -> None:
        action = "complete" if isinstance(report, Completion) else "fail"
        try:
            await self._server.post(f"/api/tasks/{head.id}/{action}", report)
        except Rejected as error:
            if error.status in {404, 409} or action == "fail":
                raise
            refused = Failure(f"the server did not take the reply: {error}", "agent_error.empty_or_unparseable_output")
            await self._report(head, refused)
            return
        logger.info("task_ended", task_id=head.id, action=action)

    async def _hand_back(self, head: TaskHead) -> None:
        """The worker ends before the program did: somebody else should try at once."""
        if self._silent:
            return
        with finishing(REPORT_SECONDS) as scope:
            try:
                await self._report(head, Failure("its worker was stopped", "runtime_recovery"))
            except GatewayError as error:
                logger.warning("task_not_handed_back", task_id=head.id, reason=str(error))
        if scope.cancelled_caught:
            logger.warning("task_not_handed_back", task_id=head.id, reason="the server is away")


def judge_end(finished: Finished) -> Completion | Failure:
    """An answer, or why there is none."""
    if finished.overflowed:
        size = len(finished.stdout)
        return Failure(f"the reply is too long: more than {size} bytes", "agent_error.empty_or_unparseable_output")
    if finished.returncode == 0:
        return Completion(finished.stdout.decode("utf-8", "replace").replace("\x00", "").rstrip())
    tail = finished.stderr_tail.decode("utf-8", "replace").replace("\x00", "").strip()
    return Failure(f"{_ending(finished.returncode)}\n{tail}".strip())


def _ending(returncode: int) -> str:
    if returncode > 0:
        return f"the program ended with exit status {returncode}"
    try:
        return f"the program was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"the program was ended by signal {-returncode}"


def _seconds_left(head: TaskHead, answer: httpx2.Response) -> float:
    """Until the deadline, by the server's clock: this machine's may be wrong by any amount."""
    try:
        now = parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        now = datetime.now(UTC)
    return max((head.deadline - now).total_seconds(), 0.0)
