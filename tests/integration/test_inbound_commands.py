"""The command suite against Postgres, and what commands owe to it alone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from gateway.concurrency import Topics, watch_points
from gateway.postgres.pool import Pool
from gateway.postgres.task_store import PostgresTaskStore
from gateway.work.people.directory import RuntimePrincipal
from gateway.work.tasks.tasks import AssignedTask, TaskService
from support.inbound_backend import Bot, ObservedPipeline, direct, open_pipeline
from support.inbound_postgres import PostgresInbound

pytest.register_assert_rewrite("support.command_suite")
from support.command_suite import CommandSuite  # noqa: E402  (its assertions explain themselves only when rewritten)


@pytest.fixture
def backend(pool: Pool) -> PostgresInbound:
    return PostgresInbound(pool, window_seconds=0)


@pytest.fixture
async def pipeline(backend: PostgresInbound) -> AsyncIterator[ObservedPipeline]:
    async with open_pipeline(backend.store, fused=True, issues=backend.issues) as opened:
        yield opened


class TestCommandsInPostgres(CommandSuite):
    pass


async def staffed(backend: PostgresInbound) -> Bot:
    """A bot with a bound member."""
    bot = await backend.add_bot()
    await backend.bind(bot, "ou_ann")
    return bot


async def claimed(backend: PostgresInbound, bot: Bot) -> AssignedTask | None:
    ((runtime_id,),) = await backend.run("select runtime_id from agent where id = %s", bot.agent_id)
    service = TaskService(PostgresTaskStore(backend.pool), Topics())
    assignment = await service.claim(RuntimePrincipal(runtime_id, bot.workspace_id), runtime_id)
    if assignment is not None:
        await backend.run("update agent_task set status = 'completed' where id = %s", assignment.claim.id)
    return assignment


async def test_run_of_a_conversation_does_not_hear_of_its_issue(
    backend: PostgresInbound, pipeline: ObservedPipeline
) -> None:
    bot = await staffed(backend)
    await pipeline.receive(direct("om_1", "good morning"))
    await pipeline.receive(direct("om_2", "/issue Fix the login"))
    runs = [await claimed(backend, bot) for _ in range(3)]
    assert [(run.claim.kind, run.prompt) for run in runs if run] == [
        ("chat", "good morning"),
        ("issue", "Fix the login"),
    ]


async def test_run_hears_nothing_from_before_a_fresh_start(
    backend: PostgresInbound, pipeline: ObservedPipeline
) -> None:
    bot = await staffed(backend)
    for number, words in enumerate(["one", "two", "/new three", "four"]):
        await pipeline.receive(direct(f"om_{number}", words))
    runs = [await claimed(backend, bot) for _ in range(3)]
    assert [run.prompt for run in runs if run] == ["one\n\ntwo", "three\n\nfour"]


async def test_people_who_ask_for_the_same_at_the_same_time_get_one_issue(
    backend: PostgresInbound, pipeline: ObservedPipeline
) -> None:
    bot = await staffed(backend)
    for number in range(6):
        await backend.bind(bot, f"ou_{number}")
    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(pipeline.receive, direct(f"om_{number}", "/issue Fix the login", sender=f"ou_{number}"))
    assert [(issue.number, issue.runs) for issue in await backend.filed()] == [(1, 1)]
    told = sorted(notice.text.partition("\n")[0] for notice in await backend.notices())
    assert told == [
        "Created W-1: Fix the login",
        *["W-1 has this title already and is still open: Fix the login"] * 5,
    ]


@pytest.mark.parametrize(
    ("point", "redelivered"), [("inbound.before_append", True), ("inbound.appended", True), ("issue.filing", False)]
)
async def test_failure_at_any_point_files_no_issue_twice(
    backend: PostgresInbound, pipeline: ObservedPipeline, point: str, redelivered: bool
) -> None:
    await staffed(backend)

    def fail(name: str) -> None:
        if name == point:
            raise RuntimeError("it fails here")

    watch_points(fail)
    try:
        with pytest.raises(RuntimeError):
            await pipeline.receive(direct("om_1", "/issue Fix the login"))
    finally:
        watch_points(None)
    for _ in range(2):
        await pipeline.receive(direct("om_1", "/issue Fix the login"))
    assert len(await backend.messages()) == 1
    assert len(await backend.filed()) == len(await backend.notices()) == int(redelivered)
