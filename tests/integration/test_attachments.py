"""Files from the message that names them to the run that reads them: real Postgres, real disk, a platform of files."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from gateway.channel.message import MediaRef, MessageType
from gateway.concurrency import Signal, Topics
from gateway.core.attachments import PER_MESSAGE_MAX, FetchProblem
from gateway.core.enrichment import SharedFile
from gateway.errors import Gone, NotFound, StoreUnavailable, Unavailable
from gateway.inbound import effects
from gateway.inbound.effects import run_attachments
from gateway.postgres.attachment_store import PostgresAttachmentStore
from gateway.postgres.driver import TrioConnection
from gateway.postgres.issue_store import PostgresFiling
from gateway.postgres.listen import run_listener
from gateway.postgres.pool import Pool
from gateway.postgres.task_store import PostgresTaskStore
from gateway.work.people.directory import RuntimePrincipal
from gateway.work.tasks.attachments import Attachments, FetchFailed, StoredAttachment
from gateway.work.tasks.file_cache import FileCache
from gateway.work.tasks.tasks import AssignedTask, TaskService
from support.file_source import FakeFiles, File, gone, unavailable
from support.inbound_backend import Bot, ObservedPipeline, direct, open_pipeline
from support.inbound_postgres import PostgresInbound
from support.recording import Recording

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40


def picture(key: str = "img_1") -> MediaRef:
    return MediaRef(MessageType.IMAGE, key)


def document(key: str = "file_1", name: str = "report.pdf") -> MediaRef:
    return MediaRef(MessageType.FILE, key, name)


@dataclass
class AttachmentFlow:
    """A bot whose agent has a runtime, somebody bound to it, and what fetches their files."""

    backend: PostgresInbound
    pipeline: ObservedPipeline
    bot: Bot
    runtime: RuntimePrincipal
    conninfo: str
    directory: Path
    source: FakeFiles = field(default_factory=FakeFiles)
    queue: Topics = field(default_factory=Topics)
    recorder: Recording = field(default_factory=Recording)

    def __post_init__(self) -> None:
        self.store = PostgresAttachmentStore(self.backend.pool)
        self.tasks = TaskService(PostgresTaskStore(self.backend.pool), self.queue)
        self.cache = FileCache(self.directory, bytes_max=1 << 20, unused_seconds_max=3600)
        self.attachments = self.replica(self.directory)

    def replica(self, directory: Path, **settings: Any) -> Attachments:
        cache = FileCache(directory, bytes_max=1 << 20, unused_seconds_max=3600)
        return Attachments(self.store, self.source, cache, recorder=self.recorder, **settings)

    @asynccontextmanager
    async def fetching(self, attachments: Attachments | None = None, **settings: Any) -> AsyncIterator[trio.Nursery]:
        """The daemon's service, woken by the database's notifications as in the daemon."""
        wake = Signal()

        def ring(payload: str) -> None:
            self.queue.ring(payload) if payload else self.queue.ring_all()

        callbacks = {"gateway_attachment": lambda _: wake.set(), "gateway_task": ring}
        serve = partial(
            run_attachments, attachments or self.attachments, self.store, wake, recorder=self.recorder, **settings
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(run_listener, lambda: TrioConnection.connect(self.conninfo), callbacks)
            await nursery.start(serve)
            yield nursery
            nursery.cancel_scope.cancel()

    async def claim(self, wait_seconds: float = 0) -> AssignedTask | None:
        return await self.tasks.claim(self.runtime, self.runtime.runtime_id, wait_seconds)

    async def claimed(self, wait_seconds: float = 10) -> AssignedTask:
        assignment = await self.claim(wait_seconds)
        assert assignment is not None
        return assignment

    async def rows(self) -> list[tuple[Any, ...]]:
        return await self.backend.run("select status, error, name, mime_type, bytes from chat_attachment order by n")

    async def ids(self) -> list[UUID]:
        return [row[0] for row in await self.backend.run("select id from chat_attachment order by created_at, n")]

    async def pass_deadline(self) -> None:
        await self.backend.run("update chat_attachment set deadline_at = now() - interval '1 second'")

    async def read(self, assignment: AssignedTask, n: int = 1, attachments: Attachments | None = None) -> bytes:
        attachments = attachments or self.attachments
        opened = await attachments.open(await attachments.find_of_task(assignment.claim.id, n))
        with opened.file as file:
            return file.read()


@pytest.fixture
async def flow(pool: Pool, database: str, tmp_path: Path) -> AsyncIterator[AttachmentFlow]:
    backend = PostgresInbound(pool, window_seconds=0)
    bot = await backend.add_bot()
    await backend.bind(bot, "ou_ann")
    ((runtime_id,),) = await backend.run("select runtime_id from agent")
    async with open_pipeline(backend.store, fused=True, issues=backend.issues) as pipeline:
        yield AttachmentFlow(
            backend, pipeline, bot, RuntimePrincipal(runtime_id, bot.workspace_id), database, tmp_path / "attachments"
        )


def files(assignment: AssignedTask) -> list[tuple[int, str, str, str, int | None]]:
    return [
        (file.n, file.kind, file.described.name, file.described.mime_type, file.bytes)
        for message in assignment.messages
        for file in message.attachments
        if not file.failed
    ]


# From the message to the run.


async def test_run_waits_for_its_picture_and_gets_exactly_its_bytes(flow: AttachmentFlow) -> None:
    gate = trio.Event()
    flow.source.files["img_1"] = File(PNG, "image/png", gate=gate)
    await flow.pipeline.receive(direct("om_1", "[Image]", type=MessageType.IMAGE, media=(picture(),)))
    async with flow.fetching():
        with trio.fail_after(10):
            await flow.source.started.wait()
        assert await flow.claim() is None
        gate.set()
        # Rung, not polled: the next look would come at the deadline.
        with trio.fail_after(10):
            assignment = await flow.claimed(30)
    assert files(assignment) == [(1, "image", "image.png", "image/png", len(PNG))]
    assert assignment.messages[0].with_additions == "[Image]"
    assert await flow.read(assignment) == PNG
    assert flow.source.downloads["img_1"] == 1
    assert flow.recorder.seen("attachment_fetches") == [("ready",)]


async def test_files_are_numbered_over_the_whole_task_and_named_by_their_messages(flow: AttachmentFlow) -> None:
    flow.source.files = {
        "img_1": File(PNG, "application/octet-stream"),
        "img_2": File(b"GIF89a", "image/gif"),
        "file_1": File(b"%PDF-1.7", "application/pdf", "attachment; filename=other.pdf"),
    }
    await flow.pipeline.receive(direct("om_1", "[Image] [Image]", media=(picture(), picture("img_2"))))
    await flow.pipeline.receive(direct("om_2", "and this"))
    await flow.pipeline.receive(direct("om_3", "[File]", type=MessageType.FILE, media=(document(),)))
    async with flow.fetching():
        assignment = await flow.claimed()
    assert [len(message.attachments) for message in assignment.messages] == [2, 0, 1]
    assert files(assignment) == [
        (1, "image", "image.png", "image/png", len(PNG)),
        (2, "image", "image.gif", "image/gif", 6),
        (3, "file", "report.pdf", "application/pdf", 8),
    ]
    assert await flow.read(assignment, 3) == b"%PDF-1.7"


async def test_file_that_cannot_be_had_leaves_its_placeholder_and_an_honest_line(flow: AttachmentFlow) -> None:
    flow.source.files = {"file_1": File(failures=[gone()]), "img_1": File(PNG, "image/png")}
    await flow.pipeline.receive(direct("om_1", "[File]", type=MessageType.FILE, media=(document(), picture())))
    async with flow.fetching():
        assignment = await flow.claimed()
    assert assignment.messages[0].with_additions == "[File]\n[report.pdf: unable to fetch]"
    assert assignment.prompt == "[File]\n[report.pdf: unable to fetch]"
    # The number of the other one counts the failed one, and means the same in the next attempt.
    assert [number for number, *_ in files(assignment)] == [2]
    assert (await flow.rows())[0][:2] == ("failed", "not_available")
    with pytest.raises(Gone) as refused:
        await flow.read(assignment)
    assert refused.value.code == "not_available"


async def test_after_the_deadline_the_run_goes_with_what_there_is_and_asking_fetches(flow: AttachmentFlow) -> None:
    flow.source.files["img_1"] = File(PNG, "image/png")
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    assert await flow.claim() is None
    due = await PostgresTaskStore(flow.backend.pool).seconds_to_next(flow.runtime.runtime_id)
    assert due is not None
    assert 40 < due <= 45
    await flow.pass_deadline()
    assignment = await flow.claimed(0)
    assert files(assignment) == [(1, "image", "image", "application/octet-stream", None)]
    assert await flow.read(assignment) == PNG
    assert (await flow.rows())[0] == ("ready", None, "image.png", "image/png", len(PNG))


async def test_second_attempt_gets_the_same_files_under_the_same_numbers(flow: AttachmentFlow) -> None:
    flow.source.files = {"file_1": File(failures=[gone()]), "img_1": File(PNG, "image/png")}
    await flow.pipeline.receive(direct("om_1", "look", media=(document(), picture())))
    async with flow.fetching():
        first = await flow.claimed()
        await flow.tasks.start(flow.runtime, first.claim.identity)
        await flow.tasks.fail(flow.runtime, first.claim.identity, "crash", "runtime_recovery")
        await flow.backend.run("update agent_task set available_at = now()")
        second = await flow.claimed()
    assert second.claim.attempt == 2
    assert files(second) == files(first)
    assert await flow.read(second, 2) == PNG


async def test_shared_files_come_after_the_messages_own_once_and_within_the_limit(flow: AttachmentFlow) -> None:
    flow.source.files["img_1"] = File(PNG)
    async with flow.fetching():
        await flow.pipeline.receive(direct("om_1", "[Image]", media=(picture(),)))
        task = await flow.claimed()
    own = SharedFile("om_1", "image", "img_1")
    quoted = [SharedFile("om_0", "file", f"file_{n}", f"{n}.txt") for n in range(PER_MESSAGE_MAX)]
    shared = (own, quoted[0], *quoted)
    store = PostgresTaskStore(flow.backend.pool)
    messages = [replace(message, shared=shared) for message in task.messages]
    for _ in range(2):
        (message,) = await store.attach_shared(task.claim.id, messages)
        assert [file.n for file in message.attachments] == [*range(1, PER_MESSAGE_MAX + 1)]
        assert [file.name for file in message.attachments[1:]] == [f"{n}.txt" for n in range(PER_MESSAGE_MAX - 1)]
    second = message.attachments[1]
    assert (second.channel_message_id, second.channel_key, second.status) == ("om_0", "file_0", "pending")
    flow.source.files["file_0"] = File(b"of the quote")
    assert await flow.read(task, 2) == b"of the quote"


async def test_message_without_files_does_not_wait_for_another_conversations(flow: AttachmentFlow) -> None:
    await flow.backend.bind(flow.bot, "ou_bob")
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    await flow.pipeline.receive(direct("om_2", "hello", sender="ou_bob"))
    assert (await flow.claimed(0)).prompt == "hello"
    assert await flow.claim() is None


# Commands.


async def test_issue_gets_the_pictures_of_the_command_and_its_run_waits_for_them(flow: AttachmentFlow) -> None:
    flow.source.files = {"img_1": File(PNG, "image/png"), "img_2": File(failures=[gone()])}
    text = "/issue Fix the login\nlook [Image] [Image]"
    await flow.pipeline.receive(direct("om_1", text, media=(picture(), picture("img_2"))))
    assert await flow.claim() is None
    async with flow.fetching():
        assignment = await flow.claimed()
    assert assignment.claim.kind == "issue"
    assert files(assignment) == [(1, "image", "image.png", "image/png", len(PNG))]
    (message,) = assignment.messages
    assert message.text == text
    assert message.author
    assert "[Image: unable to fetch]" in assignment.prompt
    assert await flow.read(assignment) == PNG


async def test_description_of_an_issue_shows_its_pictures_where_they_were_put(flow: AttachmentFlow) -> None:
    text = "/issue Fix [Image] this\nfirst [Image] then [File]\nand\t[Image]"
    media = (picture("img_0"), picture("img_1"), document(), picture("img_2"))
    await flow.pipeline.receive(direct("om_1", text, media=media))
    beside, first, _, second = await flow.ids()
    (issue,) = await flow.backend.filed()
    assert issue.title == "Fix this"
    assert issue.description == (
        f"![](/api/attachments/{beside}/download)\n\nfirst ![](/api/attachments/{first}/download) then [File]\n"
        f"and\t![](/api/attachments/{second}/download)"
    )


async def test_description_of_a_confirmed_issue_shows_its_pictures_too(flow: AttachmentFlow) -> None:
    sent = await flow.backend.sent(3_000)
    await flow.pipeline.receive(direct("om_1", "/issue Fix it\n[Image]", sent_at=sent, media=(picture(),)))
    await flow.pipeline.receive(direct("om_2", "/confirm"))
    (issue,) = await flow.backend.filed()
    (shown,) = await flow.ids()
    assert issue.description == f"![](/api/attachments/{shown}/download)"


async def test_words_that_look_like_a_picture_stay_words(flow: AttachmentFlow) -> None:
    await flow.pipeline.receive(direct("om_1", "/issue Fix it\n[Image] [Image]", media=(picture(),)))
    await flow.pipeline.receive(direct("om_2", "/issue Another\nwithout a picture: [Image]"))
    described = {issue.title: issue.description for issue in await flow.backend.filed()}
    (shown,) = await flow.ids()
    assert described == {
        "Fix it": f"![](/api/attachments/{shown}/download) [Image]",
        "Another": "without a picture: [Image]",
    }


async def test_crash_while_filing_leaves_no_issue_and_takes_no_pictures(
    flow: AttachmentFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise StoreUnavailable("the database is away")

    monkeypatch.setattr(PostgresFiling, "describe", away)
    with pytest.raises(StoreUnavailable):
        await flow.pipeline.receive(direct("om_1", "/issue Fix it\n[Image]", media=(picture(),)))
    assert await flow.backend.filed() == []
    assert await flow.backend.run("select issue_id from chat_attachment") == [(None,)]


async def test_picture_of_a_command_that_came_to_nothing_is_never_fetched(flow: AttachmentFlow) -> None:
    flow.source.files["img_1"] = File(PNG, "image/png")
    await flow.pipeline.receive(direct("om_1", "/issue Fix the login"))
    await flow.pipeline.receive(direct("om_2", "/issue fix the LOGIN", media=(picture(),)))
    await flow.pipeline.receive(direct("om_3", "hello"))
    async with flow.fetching():
        kinds = {(await flow.claimed()).claim.kind for _ in range(2)}
    assert kinds == {"issue", "chat"}
    assert not flow.source.downloads
    assert [row[0] for row in await flow.rows()] == ["pending"]


async def test_held_command_brings_its_pictures_when_it_is_confirmed(flow: AttachmentFlow) -> None:
    flow.source.files["img_1"] = File(PNG, "image/png")
    sent = await flow.backend.sent(3_000)
    await flow.pipeline.receive(direct("om_1", "/issue Fix it", sent_at=sent, media=(picture(),)))
    async with flow.fetching():
        await flow.pipeline.receive(direct("om_2", "/confirm"))
        assignment = await flow.claimed()
    assert assignment.claim.issue_title == "Fix it"
    assert await flow.read(assignment) == PNG


async def test_held_fresh_start_brings_its_pictures_when_it_is_confirmed(flow: AttachmentFlow) -> None:
    flow.source.files["img_1"] = File(PNG, "image/png")
    sent = await flow.backend.sent(3_000)
    await flow.pipeline.receive(direct("om_1", "/new what is this", sent_at=sent, media=(picture(),)))
    async with flow.fetching():
        await flow.pipeline.receive(direct("om_2", "/confirm"))
        assignment = await flow.claimed()
    assert assignment.prompt == "what is this"
    assert files(assignment) == [(1, "image", "image.png", "image/png", len(PNG))]


# Fetching.


async def test_transient_failure_is_tried_again_while_a_run_waits(
    flow: AttachmentFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "RETRY_FIRST_SECONDS", 0.01)
    flow.source.files["img_1"] = File(PNG, "image/png", failures=[unavailable(), unavailable(retry_after=0.05)])
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    async with flow.fetching():
        assignment = await flow.claimed()
    assert files(assignment) == [(1, "image", "image.png", "image/png", len(PNG))]
    assert flow.recorder.seen("attachment_fetches") == [("unavailable",), ("unavailable",), ("ready",)]


async def test_transient_failure_at_the_deadline_ends_the_waiting(flow: AttachmentFlow) -> None:
    flow.source.files["img_1"] = File(failures=[unavailable(retry_after=60)])
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    async with flow.fetching():
        assignment = await flow.claimed()
    assert assignment.messages[0].with_additions == "look"
    assert (await flow.rows())[0][:2] == ("pending", None)
    flow.source.files["img_1"] = File(PNG, "image/png")
    assert await flow.read(assignment, 1) == PNG


async def test_fault_of_one_file_is_its_own(flow: AttachmentFlow) -> None:
    flow.source.files = {"img_1": File(failures=[ZeroDivisionError()]), "img_2": File(PNG, "image/png")}
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(), picture("img_2"))))
    async with flow.fetching():
        assignment = await flow.claimed()
    assert [row[:2] for row in await flow.rows()] == [("failed", "unexpected"), ("ready", None)]
    assert flow.recorder.seen("unexpected_errors") == [("attachment",)]
    assert await flow.read(assignment, 2) == PNG


@pytest.mark.parametrize("announced", [None, 10, 10_000])
async def test_file_above_the_limit_is_refused_whatever_was_announced(
    flow: AttachmentFlow, announced: int | None
) -> None:
    flow.source.files["img_1"] = File(b"x" * 2_000, announced=announced)
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    async with flow.fetching(flow.replica(flow.directory, bytes_max=1_000)):
        await flow.claimed()
    assert (await flow.rows())[0][:2] == ("failed", "too_large")
    assert not list(flow.directory.iterdir())


async def test_file_that_takes_too_long_is_not_waited_for_any_more(flow: AttachmentFlow) -> None:
    flow.source.files["img_1"] = File(PNG, gate=trio.Event())
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    await flow.backend.run("update chat_attachment set deadline_at = now() + interval '1 second'")
    async with flow.fetching(flow.replica(flow.directory, fetch_seconds=0.3)):
        with trio.fail_after(10):
            assignment = await flow.claimed()
    assert [file.bytes for file in assignment.messages[0].attachments] == [None]
    assert (await flow.rows())[0][:2] == ("pending", None)
    assert not list(flow.directory.iterdir())


async def test_few_files_are_fetched_at_the_same_time(flow: AttachmentFlow) -> None:
    keys = [f"img_{number}" for number in range(12)]
    gate = trio.Event()
    flow.source.files = {key: File(PNG, "image/png", gate=gate) for key in keys}
    await flow.pipeline.receive(direct("om_1", "look", media=tuple(map(picture, keys))))
    attachments = flow.replica(flow.directory, at_once=3)
    async with flow.fetching(attachments):
        with trio.fail_after(10):
            while flow.source.going < 3 or attachments.waiting < 12:
                await trio.sleep(0.01)
        gate.set()
        assignment = await flow.claimed()
    assert len(files(assignment)) == 12
    assert flow.source.going_most == 3


async def test_two_replicas_share_the_work_and_each_file_is_fetched_once(flow: AttachmentFlow, tmp_path: Path) -> None:
    keys = [f"img_{number}" for number in range(20)]
    flow.source.files = {key: File(PNG, "image/png") for key in keys}
    async with flow.fetching(), flow.fetching(flow.replica(tmp_path / "other")):
        await flow.pipeline.receive(direct("om_1", "look", media=tuple(map(picture, keys))))
        assignment = await flow.claimed()
    assert len(files(assignment)) == 20
    assert set(flow.source.downloads.values()) == {1}


async def test_stopping_in_the_middle_gives_the_file_back_at_once(flow: AttachmentFlow) -> None:
    file = flow.source.files["img_1"] = File(PNG, "image/png", gate=trio.Event())
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    async with flow.fetching(drain_seconds=0.05) as nursery:
        with trio.fail_after(10):
            await flow.source.started.wait()
        nursery.cancel_scope.cancel()
    assert await flow.backend.run("select status, taken_at from chat_attachment") == [("pending", None)]
    assert not list(flow.directory.iterdir())
    file.gate = None
    async with flow.fetching():
        await flow.claimed()
    assert flow.source.downloads["img_1"] == 2


async def test_fetch_that_is_nearly_done_may_finish_when_the_process_stops(flow: AttachmentFlow) -> None:
    gate = trio.Event()
    flow.source.files["img_1"] = File(PNG, "image/png", gate=gate)
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    async with flow.fetching(drain_seconds=10) as nursery:
        with trio.fail_after(10):
            await flow.source.started.wait()
        nursery.cancel_scope.cancel()
        gate.set()
    assert (await flow.rows())[0][0] == "ready"


async def test_file_whose_taker_vanished_is_taken_again(flow: AttachmentFlow) -> None:
    flow.source.files["img_1"] = File(PNG, "image/png")
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    assert len(await flow.store.take(8)) == 1
    assert await flow.store.take(8) == []
    await flow.backend.run("update chat_attachment set taken_at = taken_at - interval '16 seconds'")
    async with flow.fetching():
        await flow.claimed()
    assert flow.source.downloads["img_1"] == 1


async def test_fetch_that_goes_on_keeps_its_hold(flow: AttachmentFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "HOLD_SECONDS", 0.02)
    flow.source.files["img_1"] = File(PNG, gate=trio.Event())
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    async with flow.fetching(drain_seconds=0):
        with trio.fail_after(10):
            await flow.source.started.wait()
        await flow.backend.run("update chat_attachment set taken_at = now() - interval '1 hour'")
        with trio.fail_after(10):
            while not (await flow.backend.run("select taken_at > now() - interval '1 minute' from chat_attachment"))[0][
                0
            ]:
                await trio.sleep(0.01)


async def test_database_that_is_away_leaves_the_file_to_a_later_try(flow: AttachmentFlow) -> None:
    flow.source.files["img_1"] = File(PNG, "image/png")
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))

    class Away(PostgresAttachmentStore):
        failures = 1

        async def settle_fetched(self, *arguments: Any) -> None:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("away")
            await super().settle_fetched(*arguments)

    attachments = Attachments(Away(flow.backend.pool), flow.source, flow.cache)
    async with flow.fetching(attachments, poll_seconds=0.05):
        with trio.fail_after(10):
            while not flow.source.downloads:
                await trio.sleep(0.01)
        await flow.backend.run("update chat_attachment set taken_at = taken_at - interval '16 seconds'")
        await flow.claimed()


# Asking for a file.


async def test_replica_without_the_file_fetches_it_again_once_for_all_who_ask(
    flow: AttachmentFlow, tmp_path: Path
) -> None:
    flow.source.files["img_1"] = File(PNG, "image/png")
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    async with flow.fetching():
        assignment = await flow.claimed()
    other = flow.replica(tmp_path / "other")
    answers: list[bytes] = []

    async def ask() -> None:
        answers.append(await flow.read(assignment, attachments=other))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert answers == [PNG] * 5
    assert flow.source.downloads["img_1"] == 2


async def test_failed_fetch_is_shared_as_well(flow: AttachmentFlow) -> None:
    gate = trio.Event()
    flow.source.files["img_1"] = File(failures=[unavailable(retry_after=7)], gate=gate)
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    await flow.pass_deadline()
    assignment = await flow.claimed(0)
    refusals: list[str] = []

    async def ask() -> None:
        with pytest.raises(Unavailable) as refused:
            await flow.read(assignment)
        refusals.append(refused.value.code)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
        with trio.fail_after(10):
            while flow.attachments.waiting < 3:
                await trio.sleep(0.01)
        gate.set()
    assert refusals == ["unavailable"] * 3
    assert flow.source.downloads["img_1"] == 1
    # Not a word about for ever: the next one tries again.
    flow.source.files["img_1"] = File(PNG, "image/png")
    assert await flow.read(assignment) == PNG


async def test_one_who_asks_and_leaves_passes_the_fetch_on(flow: AttachmentFlow) -> None:
    file = flow.source.files["img_1"] = File(PNG, "image/png", gate=trio.Event())
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    await flow.pass_deadline()
    assignment = await flow.claimed(0)
    async with trio.open_nursery() as nursery:
        leaving = trio.CancelScope()

        async def leave() -> None:
            with leaving:
                await flow.read(assignment)

        nursery.start_soon(leave)
        with trio.fail_after(10):
            await flow.source.started.wait()
        nursery.start_soon(flow.read, assignment)
        with trio.fail_after(10):
            while flow.attachments.waiting < 2:
                await trio.sleep(0.01)
        file.gate = None
        leaving.cancel()
    assert flow.source.downloads["img_1"] == 2


@pytest.mark.parametrize("damage", ["gone", "short"])
async def test_file_that_is_gone_or_torn_is_fetched_again(flow: AttachmentFlow, damage: str) -> None:
    flow.source.files["img_1"] = File(PNG, "image/png")
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    async with flow.fetching():
        assignment = await flow.claimed()
    (path,) = flow.directory.iterdir()
    path.unlink() if damage == "gone" else path.write_bytes(b"half")
    assert await flow.read(assignment) == PNG


async def test_file_of_another_number_is_not_found(flow: AttachmentFlow) -> None:
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    await flow.pass_deadline()
    assignment = await flow.claimed(0)
    for n in (0, 2, 10**8):
        with pytest.raises(NotFound):
            await flow.read(assignment, n)


# On disk.


async def test_file_on_disk_has_our_id_for_a_name_and_only_we_can_read_it(flow: AttachmentFlow) -> None:
    flow.source.files["file_1"] = File(b"#!/bin/sh", "text/html", 'attachment; filename="../../evil"')
    name = "../../../etc/cron.d/evil\r\n\x1f"
    await flow.pipeline.receive(direct("om_1", "look", media=(document(name=name),)))
    async with flow.fetching():
        assignment = await flow.claimed()
    (path,) = flow.directory.iterdir()
    assert path.name == str((await flow.ids())[0])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(flow.directory.stat().st_mode) == 0o700
    assert files(assignment) == [(1, "file", "evil.html", "text/html", 9)]


async def test_longest_unused_files_go_when_there_are_too_many(flow: AttachmentFlow) -> None:
    flow.source.files = {f"img_{number}": File(bytes(400), "image/png") for number in range(4)}
    cache = FileCache(flow.directory, bytes_max=1_000, unused_seconds_max=3600)
    attachments = Attachments(flow.store, flow.source, cache)
    for number in range(4):
        await flow.pipeline.receive(direct(f"om_{number}", "look", media=(picture(f"img_{number}"),)))
    for row in await flow.store.take(8):
        await attachments.fetch(row)
        await trio.sleep(0.01)
    assert len(list(flow.directory.iterdir())) == 2
    assert [row[0] for row in await flow.rows()] == ["ready"] * 4


async def test_sweep_removes_files_whose_row_is_gone_and_what_a_crash_left(flow: AttachmentFlow) -> None:
    flow.source.files = {"img_1": File(PNG), "img_2": File(PNG)}
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(), picture("img_2"))))
    async with flow.fetching():
        await flow.claimed()
    first, second = await flow.ids()
    await flow.backend.run("delete from chat_attachment where id = %s", first)
    torn = flow.directory / f"{uuid4()}-00.part"
    torn.write_bytes(b"half")
    os.utime(torn, (0, 0))
    foreign = flow.directory / "README"
    foreign.write_text("somebody's")
    assert await flow.attachments.sweep() == 2
    assert {path.name for path in flow.directory.iterdir()} == {str(second), "README"}
    await flow.backend.delete_sessions()
    assert await flow.attachments.sweep() == 1
    assert await flow.attachments.sweep() == 0


async def test_disk_that_cannot_be_written_is_said_so(flow: AttachmentFlow) -> None:
    flow.directory.write_text("no directory")
    flow.source.files["img_1"] = File(PNG)
    await flow.pipeline.receive(direct("om_1", "look", media=(picture(),)))
    (row,) = await flow.store.take(1)
    with pytest.raises(FetchFailed) as failed:
        await flow.attachments.fetch(row)
    assert failed.value.problem is FetchProblem.NO_ROOM
    assert failed.value.transient


def test_attachment_hides_its_handle_and_name() -> None:
    hidden = StoredAttachment(
        uuid4(), uuid4(), 1, uuid4(), "om_1", "file_secret", "file", "salary.pdf", "", None, "pending", None
    )
    assert "file_secret" not in repr(hidden)
    assert "salary" not in repr(hidden)
