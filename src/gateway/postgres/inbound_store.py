"""Inbound messages, in Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from gateway.concurrency import reached
from gateway.core.attachments import PER_MESSAGE_MAX, display_name
from gateway.core.claim import STALE_AFTER, ClaimAnswer, ClaimRow, answer_to_refused
from gateway.errors import RemoteProtocolError, StoreConflict
from gateway.ids import new_id
from gateway.inbound.ports import (
    PROMPT_SECONDS,
    Confirmed,
    Conversation,
    Drop,
    HeldCommand,
    Identity,
    InboundInstallation,
    MessageClaim,
    PlainMessage,
    SessionGone,
    UserMessage,
)
from gateway.postgres.driver import TrioConnection
from gateway.postgres.notices import write_notice
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.tasks.attachments import FETCH_SECONDS
from gateway.work.tasks.notices import Notice
from gateway.work.tasks.ports import SILENT_SECONDS
from gateway.work.tasks.sessions import Queueing, judge_queueing


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What kept a conversation's run from being queued or taken, if anything.

    `absent`: no runtime can take it at the moment. `untold`: this message is the first that meets the absence.
    """

    agent_archived: bool
    session_archived: bool
    has_runtime: bool
    absent: bool
    untold: bool


LOCK_MILLISECONDS = 300
"""The time that the shared statement waits for a row that another transaction has locked.

The acknowledgements of every bot wait for this statement.
"""

_SQL = SqlFile("inbound.sql")
_GET_INSTALLATION_BY_APP = _SQL.one_or_none("get_installation_by_app", InboundInstallation)
_CLAIM_INBOUND_DEDUP = _SQL.value_or_none("claim_inbound_dedup", UUID)
_GET_INBOUND_CLAIM = _SQL.one_or_none("get_inbound_claim", ClaimRow)
_MARK_INBOUND_PROCESSED = _SQL.count("mark_inbound_processed")
_RELEASE_INBOUND_CLAIM = _SQL.changed("release_inbound_claim")
_RECORD_INBOUND_DROP = _SQL.value("record_inbound_drop", int)
_IS_OWN_MESSAGE = _SQL.value("is_own_message", bool)
_GET_USER_BINDING = _SQL.one_or_none("get_user_binding", Identity)
_GET_CHAT_SESSION_BINDING = _SQL.value_or_none("get_chat_session_binding", UUID)
_CREATE_CHAT_SESSION_BINDING = _SQL.value_or_none("create_chat_session_binding", UUID)
_DELETE_ORPHANED_CHAT_SESSION_BINDING = _SQL.count("delete_orphaned_chat_session_binding")
_LOCK_CHAT_SESSION = _SQL.value_or_none("lock_chat_session", int)
_ADVANCE_CONTEXT = _SQL.value_or_none("advance_context", int)
_APPEND_USER_MESSAGE = _SQL.count("append_user_message")
_ATTACH_MEDIA = _SQL.count("attach_media")
_ADOPT_ATTACHMENTS = _SQL.count("adopt_attachments")
_HOLD_COMMAND = _SQL.count("hold_command")
_DROP_HELD_COMMAND = _SQL.count("drop_held_command")
_TAKE_HELD_COMMAND = _SQL.one_or_none("take_held_command", HeldCommand)
_GET_FORMER_WORDS = _SQL.value_or_none("get_former_words", str)
_GET_AGE = _SQL.value("get_age", float)
_UPDATE_REPLY_TARGET = _SQL.count("update_reply_target")
_ENQUEUE_CHAT_TASK = _SQL.one("enqueue_chat_task", Enqueued)
_INGEST_PLAIN_MESSAGES = _SQL.column("ingest_plain_messages", UUID)


class _ClaimLost(Exception):
    """Raised to roll back a transaction whose claim another worker has retaken. Caught in this module."""


class PostgresInboundStore:
    """Implements gateway.inbound.ports.InboundStore on a pool that the caller owns.

    A conversation's run becomes claimable `batch_window_seconds` after its last message. A runtime that was silent for
    `silent_seconds` counts as absent.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        batch_window_seconds: float,
        silent_seconds: float = SILENT_SECONDS,
        mint: Callable[[], UUID] = new_id,
    ) -> None:
        self._pool = pool
        self._window = batch_window_seconds
        self._silent = silent_seconds
        self._mint = mint

    async def find_installation(self, channel_type: str, app_id: str) -> InboundInstallation | None:
        return await _GET_INSTALLATION_BY_APP(self._pool, channel_type=channel_type, app_id=app_id)

    async def claim(self, claim: MessageClaim) -> ClaimAnswer:
        async with self._pool.connection() as conn:
            taken = await _CLAIM_INBOUND_DEDUP(
                conn, **_key(claim), token=claim.token, stale_seconds=STALE_AFTER.total_seconds()
            )
            if taken is not None:
                return ClaimAnswer.TAKEN
            return answer_to_refused(await _GET_INBOUND_CLAIM(conn, **_key(claim)))

    async def is_processed(self, claim: MessageClaim) -> bool:
        return answer_to_refused(await _GET_INBOUND_CLAIM(self._pool, **_key(claim))) is ClaimAnswer.PROCESSED

    async def release(self, claim: MessageClaim) -> bool:
        return await _RELEASE_INBOUND_CLAIM(self._pool, **_key(claim), token=claim.token)

    async def record_drop(self, drop: Drop, claim: MessageClaim | None) -> bool:
        recorded = await _RECORD_INBOUND_DROP(
            self._pool,
            installation_id=drop.installation_id,
            channel_type=drop.channel_type,
            chat_id=drop.chat_id,
            event_type=drop.event_type,
            event_id=drop.event_id,
            message_id=drop.message_id,
            reason=drop.reason.value,
            token=None if claim is None else claim.token,
            asked=drop.asked_to_bind,
            prompt_id=self._mint(),
            prompt_seconds=PROMPT_SECONDS,
        )
        return recorded > 0

    async def is_own_message(self, installation_id: UUID, message_id: str) -> bool:
        return await _IS_OWN_MESSAGE(self._pool, installation_id=installation_id, message_id=message_id)

    async def find_identity(self, installation: InboundInstallation, sender_id: str) -> Identity | None:
        return await _GET_USER_BINDING(
            self._pool, installation_id=installation.id, workspace_id=installation.workspace_id, sender_id=sender_id
        )

    async def ensure_session(self, conversation: Conversation) -> UUID:
        key = {"installation_id": conversation.installation.id, "session_key": conversation.key}
        async with self._pool.connection() as conn:
            for _ in range(2):
                found = (
                    await _GET_CHAT_SESSION_BINDING(conn, **key)
                    or await _CREATE_CHAT_SESSION_BINDING(conn, **key, **self._new_session(conversation))
                    # Another transaction created the binding first. It has committed, or else the insert would still
                    # wait for it, so the binding can be read now.
                    or await _GET_CHAT_SESSION_BINDING(conn, **key)
                )
                if found is not None:
                    return found
                await _DELETE_ORPHANED_CHAT_SESSION_BINDING(conn, **key)
        raise StoreConflict("the conversation's session was deleted while it was being looked up")

    def _new_session(self, conversation: Conversation) -> dict[str, Any]:
        config = {} if conversation.chat_id == conversation.key else {"chat_id": conversation.chat_id}
        return {
            "binding_id": self._mint(),
            "session_id": self._mint(),
            "workspace_id": conversation.installation.workspace_id,
            "agent_id": conversation.installation.agent_id,
            "channel_type": conversation.channel_type,
            "chat_type": "group" if conversation.group else "p2p",
            "config": msgspec.json.encode(config).decode(),
            "creator_id": conversation.creator_id,
            "title": conversation.title,
        }

    async def append(
        self, message: UserMessage, claim: MessageClaim | None, notices: Mapping[Queueing, Notice]
    ) -> Queueing | None:
        _check_storable([message.text])
        try:
            async with self._transaction(claim) as conn:
                await _write(conn, message, kind="text")
                queueing, untold = await self._enqueue(conn, message)
                if untold and queueing in notices:
                    await write_notice(conn, notices[queueing])
        except _ClaimLost:
            return None
        return queueing

    async def append_command(
        self, message: UserMessage, claim: MessageClaim | None, *, notice: Notice | None, held_words: str | None
    ) -> bool:
        _check_storable([message.text, held_words or ""])
        try:
            async with self._transaction(claim) as conn:
                await _write(conn, message, kind="channel_command")
                if held_words is not None:
                    await _HOLD_COMMAND(conn, **_place(message), message_id=message.id, words=held_words)
                if notice is not None:
                    await write_notice(conn, notice)
        except _ClaimLost:
            return False
        return True

    async def start_fresh(self, session_id: UUID, author_id: UUID, claim: MessageClaim | None, notice: Notice) -> bool:
        try:
            async with self._transaction(claim) as conn:
                await _lock_session(conn, session_id, fresh=True)
                await _DROP_HELD_COMMAND(conn, session_id=session_id, author_id=author_id)
                await write_notice(conn, notice)
        except _ClaimLost:
            return False
        return True

    async def confirm(
        self, message: UserMessage, claim: MessageClaim | None, *, held_seconds: float, otherwise: Notice
    ) -> Confirmed | None:
        _check_storable([message.text])
        try:
            async with self._transaction(claim) as conn:
                await _lock_session(conn, message.session_id, fresh=False)
                held = await _TAKE_HELD_COMMAND(conn, **_place(message), held_seconds=held_seconds)
                await _write(conn, message, kind="channel_command")
                if held is None:
                    await write_notice(conn, otherwise)
        except _ClaimLost:
            return None
        return Confirmed(held)

    @asynccontextmanager
    async def _transaction(self, claim: MessageClaim | None) -> AsyncIterator[TrioConnection[Any]]:
        """Open a transaction that marks the claim as processed at its end, before the commit.

        Raises _ClaimLost, which rolls back, when another worker has retaken the claim.
        """
        async with self._pool.transaction() as conn:
            yield conn
            if claim is not None and not await _MARK_INBOUND_PROCESSED(conn, **_key(claim), token=claim.token):
                raise _ClaimLost
            reached("inbound.appended")

    async def find_former_words(self, session_id: UUID, author_id: UUID, *, before: UUID | None) -> str:
        return await _GET_FORMER_WORDS(self._pool, session_id=session_id, author_id=author_id, before=before) or ""

    async def age_of(self, sent_at: datetime) -> float:
        return await _GET_AGE(self._pool, sent_at=sent_at)

    async def _enqueue(self, conn: TrioConnection[Any], message: UserMessage) -> tuple[Queueing, bool]:
        """Queue the conversation's run. Returns its queueing, and True if the chat was not yet told of an absence."""
        target = await _ENQUEUE_CHAT_TASK(
            conn,
            task_id=self._mint(),
            session_id=message.session_id,
            initiator_id=message.author_id,
            window_seconds=self._window,
            silent_seconds=self._silent,
        )
        queueing = judge_queueing(
            agent_archived=target.agent_archived,
            session_archived=target.session_archived,
            has_runtime=target.has_runtime,
            runtime_heard=not target.absent,
        )
        return queueing, target.untold

    async def ingest(self, messages: Sequence[PlainMessage]) -> Mapping[UUID, Queueing]:
        _check_storable([message.text for message in messages])
        stored = await _INGEST_PLAIN_MESSAGES(
            self._pool,
            tokens=[message.token for message in messages],
            channel_types=[message.channel_type for message in messages],
            app_ids=[message.app_id for message in messages],
            message_ids=[message.message_id for message in messages],
            session_keys=[message.session_key for message in messages],
            sender_ids=[message.sender_id for message in messages],
            thread_ids=[message.thread_id for message in messages],
            contents=[message.text for message in messages],
            sent_ats=[message.sent_at for message in messages],
            quoted_ids=[message.quoted_id for message in messages],
            bundles=[message.bundle for message in messages],
            window_seconds=self._window,
            silent_seconds=self._silent,
            lock_milliseconds=LOCK_MILLISECONDS,
        )
        return dict.fromkeys(stored, Queueing.QUEUED)


async def _lock_session(conn: TrioConnection[Any], session_id: UUID, *, fresh: bool) -> int:
    """Lock the session and return the context generation for new messages. `fresh` begins a new generation.

    Raises SessionGone when the session was deleted.
    """
    lock = _ADVANCE_CONTEXT if fresh else _LOCK_CHAT_SESSION
    generation = await lock(conn, session_id=session_id)
    if generation is None:
        raise SessionGone("the session was deleted before its message could be written")
    return generation


async def _write(conn: TrioConnection[Any], message: UserMessage, *, kind: str) -> None:
    generation = await _lock_session(conn, message.session_id, fresh=message.fresh)
    await _APPEND_USER_MESSAGE(
        conn,
        id=message.id,
        session_id=message.session_id,
        author_id=message.author_id,
        kind=kind,
        content=message.text,
        context_generation=generation,
        sent_at=message.sent_at,
        message_id=message.message_id,
        quoted_id=message.quoted_id,
        bundle=message.bundle,
    )
    if message.media_of is not None:
        await _ADOPT_ATTACHMENTS(conn, message_id=message.id, former_id=message.media_of, fetch_seconds=FETCH_SECONDS)
    if message.media and message.message_id:
        await _attach(conn, message, awaited=kind == "text")
    if message.message_id:
        await _UPDATE_REPLY_TARGET(
            conn, session_id=message.session_id, message_id=message.message_id, thread_id=message.thread_id
        )


async def _attach(conn: TrioConnection[Any], message: UserMessage, *, awaited: bool) -> None:
    media = message.media[:PER_MESSAGE_MAX]
    await _ATTACH_MEDIA(
        conn,
        ids=[new_id() for _ in media],
        message_id=message.id,
        session_id=message.session_id,
        channel_message_id=message.message_id,
        kinds=[each.kind.value for each in media],
        channel_keys=[each.key for each in media],
        names=[display_name(each.name) for each in media],
        awaited=awaited,
        fetch_seconds=FETCH_SECONDS,
    )


def _key(claim: MessageClaim) -> dict[str, Any]:
    return {"installation_id": claim.installation_id, "message_id": claim.message_id}


def _place(message: UserMessage) -> dict[str, Any]:
    return {"session_id": message.session_id, "author_id": message.author_id}


def _check_storable(texts: Sequence[str]) -> None:
    """Raise RemoteProtocolError for text that Postgres cannot store.

    The driver would refuse it too, but its error would contain the text.
    """
    if not all(_is_storable(text) for text in texts):
        raise RemoteProtocolError("a message contains a NUL or a lone surrogate, which Postgres text cannot hold")


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
