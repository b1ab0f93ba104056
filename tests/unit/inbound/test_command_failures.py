"""What a command leaves behind when a step fails."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from gateway.channel.channel import Verdict
from gateway.core.inbound import DropReason, InboundOutcome
from gateway.core.replies import WORDS, Reply
from gateway.errors import StoreUnavailable
from gateway.inbound.ports import MessageClaim
from support.inbound_backend import direct, open_pipeline
from support.inbound_memory import MemoryInbound


async def _backend() -> MemoryInbound:
    backend = MemoryInbound()
    await backend.bind(await backend.add_bot(), "ou_ann")
    return backend


async def _away(*_: object, **__: object) -> Any:
    raise StoreUnavailable("the database is away")


def _breaking(backend: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(backend, name, _away)


COMMANDS = {"append_command": "/issue x", "start_fresh": "/new", "append": "/new x", "confirm": "/confirm"}


@pytest.mark.parametrize(("step", "words"), COMMANDS.items())
async def test_command_that_cannot_be_kept_gives_its_claim_back(
    monkeypatch: pytest.MonkeyPatch, step: str, words: str
) -> None:
    backend = await _backend()
    async with open_pipeline(backend, fused=False, issues=backend.issues) as pipeline:
        with monkeypatch.context() as patch:
            _breaking(backend, patch, step)
            with pytest.raises(StoreUnavailable):
                await pipeline.receive(direct("om_1", words))
        assert backend.claim_rows == {}
        assert await pipeline.receive(direct("om_1", words)) is Verdict.SETTLED


async def test_issue_that_cannot_be_filed_leaves_message_and_claim_and_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = await _backend()
    async with open_pipeline(backend, fused=False, issues=backend.issues) as pipeline:
        with monkeypatch.context() as patch:
            _breaking(backend.issues, patch, "insert")
            with pytest.raises(StoreUnavailable):
                await pipeline.receive(direct("om_1", "/issue x"))
        assert [row.processed_at is not None for row in backend.claim_rows.values()] == [True]
        assert [message.content for message in backend.message_rows] == ["/issue x"]
        assert await pipeline.receive(direct("om_1", "/issue x")) is Verdict.SETTLED
    assert pipeline.outcomes == [(InboundOutcome.DROPPED, DropReason.DUPLICATE)]
    assert await backend.filed() == []


async def test_prefix_that_cannot_be_had_shortens_the_identifier(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = await _backend()
    for installation in backend.installations.values():
        backend.issues.counters[installation.workspace_id] = 6
    _breaking(backend.issues, monkeypatch, "find_prefix")
    async with open_pipeline(backend, fused=False, issues=backend.issues) as pipeline:
        await pipeline.receive(direct("om_1", "/issue x"))
    assert [notice.text for notice in await backend.notices()] == ["Created #7: x"]


@pytest.mark.parametrize("words", COMMANDS.values())
async def test_command_whose_claim_was_lost_does_nothing(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    backend = await _backend()
    find = backend.find_identity

    async def find_after_a_retake(installation: Any, sender_id: str) -> Any:
        await backend.age_claims(61)
        await backend.claim(MessageClaim(installation.id, "om_1", uuid4()))
        return await find(installation, sender_id)

    monkeypatch.setattr(backend, "find_identity", find_after_a_retake)
    async with open_pipeline(backend, fused=False, issues=backend.issues) as pipeline:
        assert await pipeline.receive(direct("om_1", words)) is Verdict.REDELIVER
    assert backend.message_rows == backend.task_rows == []
    assert await backend.filed() == []
    assert await backend.notices() == []
    assert [session.generation for session in backend.session_rows.values()] == [0]


async def test_message_without_an_id_is_answered_without_quoting() -> None:
    backend = await _backend()
    async with open_pipeline(backend, fused=False, issues=backend.issues) as pipeline:
        for _ in range(2):
            await pipeline.receive(direct("", "/confirm"))
    assert [(notice.reply_to, notice.text) for notice in await backend.notices()] == [
        ("", WORDS["en"][Reply.NOTHING_TO_CONFIRM])
    ] * 2


async def test_pipeline_without_a_command_desk_takes_commands_for_messages() -> None:
    backend = await _backend()
    async with open_pipeline(backend, fused=True) as pipeline:
        await pipeline.receive(direct("om_1", "/issue x"))
    assert [message.kind for message in backend.message_rows] == ["text"]
    assert len(backend.task_rows) == 1
