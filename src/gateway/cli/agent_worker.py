"""One worker of a runtime: claims tasks for its free slots, and runs the program for each claim."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import msgspec
import structlog
import trio

from gateway import __version__
from gateway.cli.agent_files import open_task
from gateway.cli.agent_guard import Guard
from gateway.cli.agent_privacy import Secrets, program_environment
from gateway.cli.agent_process import Finished, run_program
from gateway.cli.agent_server import Claimed, ClaimedTask, Refused, Rejected, Server, open_server
from gateway.cli.output import print_json
from gateway.concurrency import finishing
from gateway.core.plain import plain
from gateway.errors import GatewayError

logger = structlog.get_logger(__name__)

WAIT_SECONDS = 30
HEARTBEAT_SECONDS = 15.0
EMPTY_CLAIM_SECONDS_MIN = 1.0
REPORT_SECONDS = 5.0
"""The time for the last report on a task when its run was cancelled, for example at the end of the drain."""
LOGGED_TAIL_CHARS = 1_000
REPLY_BYTES_MAX = 900_000
"""The longest reply as JSON. The server takes requests of a mebibyte."""

SPOKE_BADLY = "agent_error.empty_or_unparseable_output"


@dataclass(frozen=True, slots=True)
class Completion:
    """A run that succeeded. `stderr_tail` is set only if the program wrote nothing to stdout."""

    output: str
    stderr_tail: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that failed. Without `failure_reason` the server derives a reason from the error."""

    error: str
    failure_reason: str | None = None
    stderr_tail: str | None = None


@dataclass(frozen=True, slots=True)
class Programs:
    """The command that is run for each task, the guard that ends it if this process is killed, and the secrets."""

    command: Sequence[str]
    guard: Guard
    secrets: Secrets = field(repr=False)

    async def run(self, stdin: bytes, stderr_tail: bytearray) -> Finished:
        environment = program_environment(os.environ, self.secrets.variables)
        return await run_program(
            self.command, stdin, environment=environment, guard=self.guard, stderr_tail=stderr_tail
        )


@dataclass(eq=False, slots=True)
class Run:
    """A claim that is worked on.

    `lost` is true once the claim is not this worker's any more; then its end is not reported. `former` are the runs of
    older claims of the same task that still go on here. Cancelling `scope` stops the run alone.
    """

    claimed: Claimed
    former: Sequence[Run] = ()
    stderr_tail: bytearray = field(default_factory=bytearray)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    lost: bool = False

    def lose(self) -> None:
        self.lost = True
        self.scope.cancel()

    @property
    def names(self) -> dict[str, object]:
        """Return the fields that identify the run in log lines."""
        return {"task_id": str(self.claimed.id), "attempt": self.claimed.attempt}


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a worker: its servers, its name, its tasks at a time, and the drain after the first signal."""

    servers: Sequence[str]
    instance: str
    concurrency: int
    drain_seconds: float


def run_worker(terms: Terms, programs: Programs) -> None:
    """Work until SIGTERM or SIGINT, and then for the drain. Raises Refused if the server does not accept the token."""
    trio.run(_run, terms, programs)


async def _run(terms: Terms, programs: Programs) -> None:
    async with open_server(terms.servers, programs.secrets.token) as server:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await Worker(server, programs, terms).run(signals)


class Worker:
    """Claims tasks and runs them, each with its own program, until a signal ends it."""

    def __init__(self, server: Server, programs: Programs, terms: Terms) -> None:
        self._server = server
        self._programs = programs
        self._terms = terms
        self._slots = trio.Semaphore(terms.concurrency, max_value=terms.concurrency)
        self._running: dict[Claimed, Run] = {}
        self._claiming = trio.CancelScope()
        """Ends the claiming, at the first signal."""
        self._silent = False
        """True once a second signal came: nothing is reported any more."""

    async def run(self, signals: AsyncIterator[int]) -> None:
        """Work until the first signal, and then for the drain. A second signal ends everything at once.

        Raises Refused if the server stops accepting the token.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey, signals, nursery.cancel_scope)
            await self._work()
            nursery.cancel_scope.cancel()

    async def _obey(self, signals: AsyncIterator[int], everything: trio.CancelScope) -> None:
        async for _ in signals:
            # At the second signal the first one has cancelled the claiming already.
            if self._claiming.cancel_called:
                self._silent = True
                everything.cancel()
            self._claiming.cancel()

    async def _work(self) -> None:
        # From the inside out: the first signal ends `_claiming`; the end of the drain cancels the runs in `tasks`;
        # heartbeats in `background` go on until the last run has ended, so that the server does not take it away.
        async with trio.open_nursery() as background:
            with trio.CancelScope() as drain:
                async with trio.open_nursery() as tasks:
                    with self._claiming:
                        runtime = await self._server.register(self._description())
                        ready = {"runtime_id": runtime.id, "runtime": runtime.name, "instance": self._terms.instance}
                        print_json({"event": "ready", **ready, "concurrency": self._terms.concurrency})
                        sys.stdout.flush()
                        background.start_soon(self._keep_alive, runtime.id)
                        await self._claim_forever(tasks, runtime.id)
                    # Only a signal leads here: `_claim_forever` does not return, and any error leaves the function.
                    logger.info("draining", tasks=len(self._running), seconds=self._terms.drain_seconds)
                    drain.deadline = trio.current_time() + self._terms.drain_seconds
            background.cancel_scope.cancel()

    def _description(self) -> dict[str, object]:
        """Describe this worker to the server.

        `tasks` is empty because nothing runs yet: tasks that this instance claimed before return to the queue.
        """
        return {"kind": "agent-run", "version": __version__, "instance": self._terms.instance, "tasks": []}

    async def _keep_alive(self, runtime_id: UUID) -> None:
        while True:
            await trio.sleep(HEARTBEAT_SECONDS)
            await self._heartbeat(runtime_id)

    async def _heartbeat(self, runtime_id: UUID) -> None:
        """Report the running claims, and stop those that the server has cancelled or given to another worker."""
        for claimed in await self._server.heartbeat(runtime_id, list(self._running)):
            # A run may have ended while the answer was on its way.
            if (run := self._running.get(claimed)) is not None:
                run.lose()

    async def _claim_forever(self, tasks: trio.Nursery, runtime_id: UUID) -> None:
        while True:
            # A slot first, so that no task is claimed that would have to wait here. The run gives its slot back.
            await self._slots.acquire()
            asked = trio.current_time()
            claimed = await self._server.claim(runtime_id, self._terms.instance, WAIT_SECONDS)
            if claimed is not None and claimed.head.key not in self._running:
                former = [run for run in self._running.values() if run.claimed.id == claimed.head.id]
                run = self._running[claimed.head.key] = Run(claimed.head.key, former)
                tasks.start_soon(self._run_task, run, claimed, runtime_id)
                continue
            if claimed is not None:
                # This very claim runs here already.
                logger.warning("task_handed_out_twice", task_id=str(claimed.head.id), attempt=claimed.head.attempt)
            self._slots.release()
            # A server that is shutting down does not wait for a task: it answers at once. This pause keeps us from
            # asking it in a tight loop.
            await trio.sleep(max(asked + EMPTY_CLAIM_SECONDS_MIN - trio.current_time(), 0))

    async def _run_task(self, run: Run, claimed: ClaimedTask, runtime_id: UUID) -> None:
        """Run one task, as one unit of work.

        However it ends, its slot is free afterwards, and the server is told if it can be. Raises Refused if the server
        stops accepting the token.
        """
        # True once the server knows the end, or must not be told it. Otherwise the task is handed back.
        settled = False
        try:
            # `run.scope` swallows only its own cancellation, which `Run.lose` causes. The end of the drain passes
            # through it as Cancelled, and leaves `settled` false.
            with run.scope:
                await _end_former_attempts(run)
                logger.info("task_started", **run.names)
                await self._report(run, await self._outcome(run, claimed, runtime_id))
            settled = True
            if run.lost:
                logger.warning("task_lost", **run.names)
        except Rejected as error:
            settled = True
            logger.warning("task_given_up", reason=str(error), **run.names)
        except Refused:
            settled = True
            raise
        except Exception:
            logger.exception("task_run_failed", **run.names)
        finally:
            # In `finally` and not in `except trio.Cancelled`, because nurseries may have put several Cancelled into a
            # group.
            if not settled:
                await self._hand_back(run)
            del self._running[run.claimed]
            run.ended.set()
            self._slots.release()

    async def _outcome(self, run: Run, claimed: ClaimedTask, runtime_id: UUID) -> Completion | Failure:
        """Run the program and return the report about its end. A run past its deadline is a failure."""
        with trio.move_on_after(claimed.seconds):
            # Names this claim for the first time. From now on the server takes it back when heartbeats stop naming it.
            # The answer may say that the claim is over already; then this run is cancelled before its program starts.
            await self._heartbeat(runtime_id)
            await self._start(run)
            try:
                async with open_task(claimed.task, partial(self._server.download, run.claimed)) as stdin:
                    finished = await self._programs.run(stdin + b"\n", run.stderr_tail)
            except OSError as error:
                return Failure(f"the program could not be started: {error}", "agent_error.runtime_missing_executable")
            report = judge_end(finished, self._programs.secrets)
            _log_end(run, finished, report)
            return report
        # Reached only at the deadline. `run.stderr_tail` was filled while the program ran.
        tail = _tail(bytes(run.stderr_tail), self._programs.secrets)
        logger.warning(
            "program_stopped", reason="the run went past its deadline", stderr_tail=_logged(tail), **run.names
        )
        return Failure("the run went past its deadline and was stopped", "timeout", tail)

    async def _start(self, run: Run) -> None:
        try:
            await self._server.report(run.claimed, "start")
        except Rejected as error:
            # "Running already" is a success: the server had taken an earlier try, and its answer was lost.
            if error.body.get("code") != "wrong_status" or error.body.get("task_status") != "running":
                raise

    async def _report(self, run: Run, report: Completion | Failure) -> None:
        tail = {"stderr_tail": report.stderr_tail} if report.stderr_tail else {}
        if isinstance(report, Failure):
            reason = {"failure_reason": report.failure_reason} if report.failure_reason else {}
            status = await self._server.report(run.claimed, "fail", error=report.error, **reason, **tail)
            logger.info("task_ended", action="fail", status=status, **run.names)
            return
        try:
            status = await self._server.report(run.claimed, "complete", output=report.output, **tail)
        except Rejected as error:
            # 404 and 409: the task is not ours, or is over. Any other refusal is about the reply itself, and the task
            # still needs an end.
            if error.status in {404, 409}:
                raise
            await self._report(run, Failure(f"the server did not take the reply: {error}", SPOKE_BADLY))
            return
        # The status is not always `completed`: a task that was cancelled meanwhile stays cancelled.
        logger.info("task_ended", action="complete", status=status, **run.names)

    async def _hand_back(self, run: Run) -> None:
        """Report that the worker stopped this run, so that another worker can try the task at once.

        It runs after a cancellation or an unexpected error, shielded from cancellation, for at most REPORT_SECONDS.
        Nothing is reported for a lost claim, or after the second signal.
        """
        if self._silent or run.lost:
            return
        with finishing(REPORT_SECONDS) as scope:
            try:
                tail = _tail(bytes(run.stderr_tail), self._programs.secrets)
                await self._report(run, Failure("its worker was stopped", "runtime_recovery", tail))
            except GatewayError as error:
                logger.warning("task_not_handed_back", reason=str(error), **run.names)
        if scope.cancelled_caught:
            logger.warning("task_not_handed_back", reason="the server is away", **run.names)


async def _end_former_attempts(run: Run) -> None:
    """End the runs of older claims of the same task, which the server has given up, and wait for their end.

    Two programs must not work on one task at the same time.
    """
    for former in run.former:
        former.lose()
        await former.ended.wait()
    run.former = ()


def judge_end(finished: Finished, secrets: Secrets) -> Completion | Failure:
    """Return the report about a program that has ended: its answer, or the reason why there is none."""
    tail = _tail(finished.stderr_tail, secrets)
    if finished.endless:
        return Failure(f"the program was ended after {finished.stdout_bytes:,} bytes of output", SPOKE_BADLY, tail)
    if finished.returncode == 0:
        output = _bounded(_text(finished.stdout).rstrip(), finished)
        return Completion(output, None if output.strip() else tail)
    return Failure(f"{_ending(finished.returncode)}\n{tail or ''}".strip(), None, tail)


def _tail(said: bytes, secrets: Secrets) -> str | None:
    """Return the end of a program's stderr with its secrets hidden, or None if it is empty."""
    return secrets.hide(_text(said).strip()) or None


def _logged(tail: str | None) -> str:
    return (tail or "")[-LOGGED_TAIL_CHARS:]


def _text(said: bytes) -> str:
    return plain(said.decode("utf-8", "replace"))


def _bounded(output: str, finished: Finished) -> str:
    """Cut a reply that is too long for a request, and say so at its end."""
    encoded = msgspec.json.encode(output)
    if len(encoded) <= REPLY_BYTES_MAX and finished.stdout_bytes <= len(finished.stdout):
        return output
    # A character takes at most six bytes as JSON.
    low, high = min(len(output), REPLY_BYTES_MAX // 6), min(len(output), REPLY_BYTES_MAX)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if len(msgspec.json.encode(output[:middle])) <= REPLY_BYTES_MAX else (low, middle - 1)
        )
    return f"{output[:low].rstrip()}\n\n[shortened: the program wrote {finished.stdout_bytes:,} bytes]"


def _log_end(run: Run, finished: Finished, report: Completion | Failure) -> None:
    """Log a run without a reply, for the worker's operator. The task and the reply are never logged."""
    if isinstance(report, Completion) and report.output.strip():
        return
    failed = isinstance(report, Failure)
    logger.warning(
        "program_failed" if failed else "program_said_nothing",
        exit_status=max(finished.returncode, 0) if finished.returncode >= 0 else None,
        signal=_signal_name(-finished.returncode) if finished.returncode < 0 else None,
        reason=report.error.partition("\n")[0] if isinstance(report, Failure) else "nothing on stdout",
        stderr_tail=_logged(report.stderr_tail),
        **run.names,
    )


def _ending(returncode: int) -> str:
    if returncode > 0:
        return f"the program ended with exit status {returncode}"
    return f"the program was ended by {_signal_name(-returncode)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
