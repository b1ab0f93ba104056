"""What the pipeline leaves behind when a step fails, and what it says about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import structlog
import trio

from gateway.channel.channel import Verdict
from gateway.channel.message import MediaRef, MessageType
from gateway.core.inbound import DropReason, InboundOutcome
from gateway.errors import StoreError, StoreUnavailable
from gateway.inbound.pipeline import InboundPipeline
from gateway.inbound.ports import PlainMessage
from gateway.work.tasks.sessions import Queueing
from support.inbound_backend import direct, grouped, open_pipeline
from support.inbound_memory import MemoryInbound


class Wrapped:
    """A store whose named calls do something else first: raise, wait, or change what is there."""

    def __init__(self, inner: MemoryInbound, **before: Callable[[], Any]) -> None:
        self._inner = inner
        self._before = before

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._inner, name)
        before = self._before.get(name)
        if before is None:
            return call

        async def wrapped(*arguments: Any) -> Any:
            await before()
            return await call(*arguments)

        return wrapped


async def _away() -> None:
    raise StoreUnavailable("the database is away")


async def _backend() -> MemoryInbound:
    backend = MemoryInbound()
    await backend.bind(await backend.add_bot(), "ou_ann")
    return backend


@pytest.mark.parametrize("step", ["find_identity", "ensure_session", "append"])
async def test_step_that_fails_releases_the_claim_and_a_retry_succeeds(step: str) -> None:
    backend = await _backend()
    async with open_pipeline(Wrapped(backend, **{step: _away}), fused=False) as pipeline:  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await pipeline.receive(direct())
    assert backend.claim_rows == {}
    assert backend.message_rows == []
    assert pipeline.outcomes == []
    async with open_pipeline(backend, fused=False) as pipeline:
        assert await pipeline.receive(direct()) is Verdict.SETTLED


async def test_drop_that_cannot_be_recorded_releases_the_claim() -> None:
    backend = await _backend()
    async with open_pipeline(Wrapped(backend, record_drop=_away), fused=False) as pipeline:  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await pipeline.receive(grouped(addressed_to_bot=False))
    assert backend.claim_rows == {}


async def test_installation_lookup_that_fails_takes_no_claim() -> None:
    backend = await _backend()
    async with open_pipeline(Wrapped(backend, find_installation=_away), fused=False) as pipeline:  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await pipeline.receive(direct())
    assert backend.claim_rows == {}


async def test_failed_release_does_not_hide_the_first_failure() -> None:
    backend = await _backend()

    async def refuse() -> None:
        raise StoreError("a mistake")

    store = Wrapped(backend, append=refuse, release=_away)
    async with open_pipeline(store, fused=False) as pipeline:  # type: ignore[arg-type]
        with pytest.raises(StoreError, match="a mistake"):
            await pipeline.receive(direct())
    assert len(backend.claim_rows) == 1


@pytest.mark.parametrize("other_worker_finishes", [False, True])
async def test_claim_lost_before_the_append_is_a_duplicate_and_settles_only_with_the_other_worker(
    other_worker_finishes: bool,
) -> None:
    backend = await _backend()

    async def lose_the_claim() -> None:
        await backend.age_claims(61)
        async with open_pipeline(backend, fused=False) as other:
            if other_worker_finishes:
                await other.receive(direct(text="theirs"))
            else:
                store = Wrapped(backend, append=trio.sleep_forever)
                stalled = InboundPipeline(store, None)  # type: ignore[arg-type]
                nursery.start_soon(stalled.receive, direct(text="theirs"))
                await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        async with open_pipeline(Wrapped(backend, append=lose_the_claim), fused=False) as pipeline:  # type: ignore[arg-type]
            verdict = await pipeline.receive(direct(text="ours"))
        nursery.cancel_scope.cancel()
    assert verdict is (Verdict.SETTLED if other_worker_finishes else Verdict.REDELIVER)
    assert pipeline.outcomes == [(InboundOutcome.DROPPED, DropReason.DUPLICATE)]
    assert [row.content for row in backend.message_rows] == ["theirs"] * other_worker_finishes


@pytest.mark.parametrize("step", ["claim", "find_identity", "ensure_session", "append"])
async def test_cancelled_request_still_releases_its_claim(step: str) -> None:
    backend = await _backend()
    pipeline = InboundPipeline(Wrapped(backend, **{step: trio.sleep_forever}), None)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipeline.receive, direct())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert backend.claim_rows == {}
    assert backend.message_rows == []


async def test_cancelled_request_still_marks_what_it_decided_to_drop() -> None:
    backend = await _backend()
    with trio.CancelScope() as scope:

        async def cancel() -> None:
            scope.cancel()

        store = Wrapped(backend, record_drop=cancel)
        await InboundPipeline(store, None).receive(grouped(addressed_to_bot=False))  # type: ignore[arg-type]
    assert [drop.reason for drop in backend.audit] == [DropReason.NOT_ADDRESSED_IN_GROUP]
    assert all(row.processed_at for row in backend.claim_rows.values())


async def test_cancellation_after_the_append_committed_releases_nothing() -> None:
    backend = await _backend()
    with trio.CancelScope() as scope:

        class Committing(MemoryInbound):
            async def append(self, *arguments: Any) -> Queueing | None:
                await backend.append(*arguments)
                scope.cancel()
                await trio.lowlevel.checkpoint()
                raise AssertionError("the checkpoint was passed")

        store = Committing(**{name: getattr(backend, name) for name in MemoryInbound.__dataclass_fields__})
        await InboundPipeline(store, None).receive(direct())
    assert scope.cancelled_caught
    assert [row.processed_at is not None for row in backend.claim_rows.values()] == [True]


@pytest.mark.parametrize(
    "message",
    [
        direct(type=MessageType.IMAGE),
        direct(media=(MediaRef(MessageType.IMAGE, "img_1"),)),
        direct(sender_is_bot=True),
        direct(""),
        grouped(addressed_to_bot=False),
        direct(text="/issue x"),
        direct(text="/new x"),
        direct(text="/confirm"),
        direct(text="quoted\n/new x", command_text="/new x"),
    ],
    ids=[
        "image",
        "media",
        "bot",
        "no-id",
        "not-addressed",
        "issue",
        "new",
        "confirm",
        "own",
    ],
)
async def test_message_that_may_need_more_than_the_store_never_takes_the_fused_path(message: Any) -> None:
    class Refusing:
        async def submit(self, _message: PlainMessage) -> Queueing | None:
            raise AssertionError("this message is not plain")

    backend = await _backend()
    assert await InboundPipeline(backend, Refusing()).receive(message) is Verdict.SETTLED


async def test_content_of_refused_people_is_neither_stored_nor_logged() -> None:
    backend = await _backend()
    secret = "the merger is on Monday"
    with structlog.testing.capture_logs() as logs:
        async with open_pipeline(backend, fused=True) as pipeline:
            await pipeline.receive(direct("om_1", secret, sender="ou_stranger"))
            await pipeline.receive(grouped("om_2", secret, addressed_to_bot=False))
            await pipeline.receive(direct("om_3", secret, app_id="cli_unknown"))
            (user,) = backend.bindings.values()
            backend.members = {pair for pair in backend.members if pair[1] != user}
            await pipeline.receive(direct("om_4", secret))
    assert len(pipeline.outcomes) == 4
    assert secret not in repr((backend, logs))


async def test_records_that_carry_a_text_do_not_show_it() -> None:
    shown: list[str] = []

    class Showing(MemoryInbound):
        async def append(self, *arguments: Any) -> Queueing | None:
            shown.append(repr(arguments))
            return await super().append(*arguments)

        async def ingest(self, messages: Any) -> Any:
            shown.append(repr(messages))
            return await super().ingest(messages)

    backend = Showing()
    await backend.bind(await backend.add_bot(), "ou_ann")
    async with open_pipeline(backend, fused=True) as pipeline:
        await pipeline.receive(direct(text="confidential"))
    assert len(shown) == 2
    assert "confidential" not in "".join(shown)
