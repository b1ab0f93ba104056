"""The steps that every inbound message goes through, in a fixed order.

    installation → claim → sender and group filter → identity and membership → session → append, mark, enqueue

A command of the sender's takes the same steps. At the end the command is carried out (`CommandService`), in place of
the enqueuing.

There are two paths. A message that needs no outside call and whose session exists goes through all steps in one
statement: this is the fused path (`TextCommitter`). Every message that the statement does not take goes through the
steps here: this is the two-phase path. It alone decides which messages are dropped, and why.

These guarantees hold across any crash. A message exists once, because it is written in the transaction that marks its
claim. A claim that was taken and not finished is given back on every way out except a crash. After a crash it goes
stale.

Points that tests may crash at (`concurrency.reached`):

- `inbound.received`, `inbound.settled`: on entry, and when the verdict is about to be given; either path.
- `inbound.fused.before`, `inbound.fused.committed`: around the shared statement, once per statement.
- `inbound.claimed`: the claim is committed.
- `inbound.before_append`: the session exists, the message does not yet.
- `inbound.appended`: inside the transaction, before its COMMIT.
- `inbound.committed`: after the COMMIT.
- `inbound.before_mark`: the message is to be dropped, and the claim is not yet marked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import structlog

from gateway.channel.channel import Verdict
from gateway.channel.message import ChatType, InboundMessage, MessageType
from gateway.concurrency import finishing, reached
from gateway.core import inbound as rules
from gateway.core.claim import ClaimAnswer
from gateway.core.commands import parse_command
from gateway.core.inbound import DropReason, InboundOutcome, Settlement
from gateway.errors import StoreError, StoreUnavailable
from gateway.ids import new_id
from gateway.inbound.commands import OUTCOMES, CommandService
from gateway.inbound.ports import (
    Conversation,
    Drop,
    Identity,
    InboundInstallation,
    InboundStore,
    MessageClaim,
    PlainMessage,
    SessionGone,
    TextCommitter,
)
from gateway.inbound.turn import Turn, quoted_by, thread_of, words_of
from gateway.recorder import SILENT, Recorder
from gateway.work.tasks.sessions import creator_of, title_of

FINALISE_SECONDS = 1.0
"""Time to mark or release a claim. In this time a cancellation does not interrupt it."""

log = structlog.get_logger()


class InboundPipeline:
    """Decides the outcome of inbound messages. Stateless between messages: any number may be in `receive` at a time."""

    def __init__(
        self,
        store: InboundStore,
        committer: TextCommitter | None,
        commands: CommandService | None = None,
        *,
        recorder: Recorder = SILENT,
        ingested: Callable[[InboundMessage], None] | None = None,
        mint: Callable[[], UUID] = new_id,
    ) -> None:
        """`committer` is the fused path. Without it every message takes the two-phase path.

        Without `commands` a command is a message like any other. `ingested` is called with every message that a run
        will take in, as soon as the message is durable. It is not called for commands. It must neither wait nor raise.
        """
        self._store = store
        self._committer = committer
        self._commands = commands
        self._recorder = recorder
        self._ingested = ingested
        self._mint = mint

    async def receive(self, message: InboundMessage) -> Verdict:
        """Decide one message. SETTLED when its outcome is committed, REDELIVER when another worker has it in flight.

        Raises StoreUnavailable, or any other error that occurred. The claim is given back first, so a redelivery can
        start at once. Cancellation gives the claim back too, within `FINALISE_SECONDS`, unless the message is already
        durable.
        """
        settlement = await self.decide(message)
        outcome = settlement.reason or settlement.outcome
        self._recorder.count("channel_events", channel=message.source.channel_type, outcome=outcome)
        reached("inbound.settled")
        return Verdict.SETTLED if settlement.settled else Verdict.REDELIVER

    async def decide(self, message: InboundMessage) -> Settlement:
        """Decide one message as `receive` does, without counting it. Return what became of it."""
        reached("inbound.received")
        return await self._fused(message) or await self._two_phase(message)

    async def _fused(self, message: InboundMessage) -> Settlement | None:
        if self._committer is None or not _is_plain(message):
            return None
        queueing = await self._committer.submit(_plain(message, self._mint()))
        return None if queueing is None else self._announce(message, Settlement(OUTCOMES[queueing]))

    def _announce(self, message: InboundMessage, settlement: Settlement) -> Settlement:
        """Announce a durable message, so that the preparation of its run may begin."""
        if settlement.outcome is InboundOutcome.INGESTED and self._ingested is not None:
            self._ingested(message)
        return settlement

    async def _two_phase(self, message: InboundMessage) -> Settlement:
        installation = await self._store.find_installation(message.source.channel_type, message.app_id)
        known, usable = installation is not None, not message.problem
        reason = rules.refuse_event(known=known, revoked=_revoked(installation), usable=usable)
        if installation is None or reason is not None:
            # No claim is taken: an unknown bot has no claims. A revoked bot's messages must be judged anew if it
            # returns. An unusable event may have the id of a message that is still to come.
            return await self._drop(message, installation, None, rules.dropped(reason or DropReason.INVALID_EVENT))
        if not message.message_id:
            return await self._claimed(message, installation, None)
        claim = MessageClaim(installation.id, message.message_id, self._mint())
        answer = await self._claim(claim)
        if answer is ClaimAnswer.TAKEN:
            return await self._claimed(message, installation, claim)
        # A redelivery leaves no trace in the store: the first delivery has its message or its audit row already.
        return rules.duplicate(processed=answer is ClaimAnswer.PROCESSED)

    async def _claim(self, claim: MessageClaim) -> ClaimAnswer:
        """Take the claim. If the attempt itself fails or is cancelled, give back the claim that it may have taken."""
        async with self._released_on_failure(claim):
            return await self._store.claim(claim)

    async def _claimed(
        self, message: InboundMessage, installation: InboundInstallation, claim: MessageClaim | None
    ) -> Settlement:
        """Do every step after the claim. The claim is marked or released in every case but a crash."""
        async with self._released_on_failure(claim):
            reached("inbound.claimed")
            settlement = await self._decide(message, installation, claim)
            if settlement.mark:
                reached("inbound.before_mark")
                settlement = await self._drop(message, installation, claim, settlement)
            return settlement

    async def _decide(
        self, message: InboundMessage, installation: InboundInstallation, claim: MessageClaim | None
    ) -> Settlement:
        addressed = message.addressed_to_bot or await self._answers_bot(message, installation)
        reason = _refuse_message(message, installation, addressed=addressed)
        if reason is not None:
            return rules.dropped(reason)
        identity = await self._store.find_identity(installation, message.source.sender_id)
        reason = rules.refuse_sender(bound=identity is not None, member=identity is not None and identity.is_member)
        if identity is None or reason is not None:
            return rules.dropped(reason or DropReason.UNBOUND_USER)
        try:
            return await self._append(message, installation, identity, claim)
        except SessionGone:
            # The conversation was deleted in this very moment and nothing was written. This message begins a new one.
            log.info("inbound_session_gone", installation_id=str(installation.id), message_id=message.message_id)
            return await self._append(message, installation, identity, claim)

    async def _answers_bot(self, message: InboundMessage, installation: InboundInstallation) -> bool:
        """True if a person replies to a message of the bot.

        A bot has to mention this one: two bots that reply to each other would never end.
        """
        if message.reply_to is None or message.sender_is_bot:
            return False
        return await self._store.is_own_message(installation.id, message.reply_to.message_id)

    async def _append(
        self, message: InboundMessage, installation: InboundInstallation, identity: Identity, claim: MessageClaim | None
    ) -> Settlement:
        session_id = await self._store.ensure_session(_conversation(message, installation, identity))
        reached("inbound.before_append")
        row_id = claim.token if claim is not None else self._mint()
        settlement = await self._take(Turn(message, installation, identity.user_id, session_id, claim, row_id))
        if settlement is not None:
            return settlement
        log.info("inbound_claim_lost", installation_id=str(installation.id), message_id=message.message_id)
        return rules.duplicate(processed=claim is not None and await self._store.is_processed(claim))

    async def _take(self, turn: Turn) -> Settlement | None:
        """Append the message, or carry out its command. None when the claim was lost."""
        command = parse_command(words_of(turn.message))
        if command is not None and self._commands is not None:
            return await self._commands.take(command, turn)
        queueing = await self._store.append(turn.entry(), turn.claim, turn.absence_notices())
        if queueing is None:
            return None
        reached("inbound.committed")
        return self._announce(turn.message, Settlement(OUTCOMES[queueing]))

    async def _drop(
        self,
        message: InboundMessage,
        installation: InboundInstallation | None,
        claim: MessageClaim | None,
        settlement: Settlement,
    ) -> Settlement:
        """Write the audit row (and the question to bind) and mark the claim, even while being cancelled.

        If the claim was lost, the message counts as a duplicate. Raises StoreUnavailable when the store takes longer
        than `FINALISE_SECONDS`.
        """
        if settlement.reason is None:
            return settlement
        drop = _audit(message, installation, settlement.reason)
        with finishing(FINALISE_SECONDS) as scope:
            recorded = await self._store.record_drop(drop, claim)
        if scope.cancelled_caught:
            raise StoreUnavailable(f"the store did not record a dropped message within {FINALISE_SECONDS} s")
        if not recorded and claim is not None:
            return rules.duplicate(processed=await self._store.is_processed(claim))
        # The account is logged because an operator needs it to bind the sender by hand. Nothing else of it is kept.
        account = {"channel_user_id": message.source.sender_id} if drop.reason is DropReason.UNBOUND_USER else {}
        log.info("inbound_dropped", reason=str(drop.reason), installation_id=str(drop.installation_id or ""), **account)
        return settlement

    @asynccontextmanager
    async def _released_on_failure(self, claim: MessageClaim | None) -> AsyncIterator[None]:
        """Give the claim back when the block fails or is cancelled.

        The store does not release a marked claim, so a failure after the append has committed undoes nothing.
        """
        try:
            yield
        except BaseException:
            if claim is not None:
                await self._release(claim)
            raise

    async def _release(self, claim: MessageClaim) -> None:
        """Give the claim back. Never raises a StoreError: the failure that led here is the one to report.

        A claim that could not be given back goes stale by itself.
        """
        released = False
        with finishing(FINALISE_SECONDS):
            try:
                released = await self._store.release(claim)
            except StoreError as error:
                log.warning("inbound_release_failed", error=str(error), message_id=claim.message_id)
        log.info("inbound_claim_released" if released else "inbound_claim_left", message_id=claim.message_id)


def _is_plain(message: InboundMessage) -> bool:
    """True if the message needs nothing but an insert.

    It has no files, needs no setting of the bot, and is no command.
    """
    return (
        message.type is MessageType.TEXT
        and not message.media
        and not message.sender_is_bot
        and not message.problem
        and _is_complete(message)
        and bool(message.message_id)
        and (message.source.chat_type is ChatType.P2P or message.addressed_to_bot)
        and parse_command(words_of(message)) is None
    )


def _is_complete(message: InboundMessage) -> bool:
    return bool(message.source.chat_id and message.source.sender_id)


def _revoked(installation: InboundInstallation | None) -> bool:
    return installation is not None and installation.revoked


def _refuse_message(
    message: InboundMessage, installation: InboundInstallation, *, addressed: bool
) -> DropReason | None:
    return rules.refuse_message(
        complete=_is_complete(message),
        from_bot=message.sender_is_bot,
        bots_allowed=installation.allow_bots,
        group=message.source.chat_type is ChatType.GROUP,
        addressed=addressed,
    )


def _plain(message: InboundMessage, token: UUID) -> PlainMessage:
    source = message.source
    return PlainMessage(
        token=token,
        channel_type=source.channel_type,
        app_id=message.app_id,
        message_id=message.message_id,
        session_key=source.session_key,
        sender_id=source.sender_id,
        thread_id=thread_of(source),
        text=message.text,
        sent_at=message.sent_at,
        quoted_id=quoted_by(message),
        bundle=message.bundle,
    )


def _conversation(message: InboundMessage, installation: InboundInstallation, identity: Identity) -> Conversation:
    source = message.source
    group = source.chat_type is ChatType.GROUP
    return Conversation(
        installation=installation,
        channel_type=source.channel_type,
        key=source.session_key,
        chat_id=source.chat_id,
        group=group,
        creator_id=creator_of(group=group, installer=installation.installer_user_id, sender=identity.user_id),
        title=title_of(group=group),
    )


def _audit(message: InboundMessage, installation: InboundInstallation | None, reason: DropReason) -> Drop:
    asked = rules.asks_to_bind(reason, from_bot=message.sender_is_bot)
    return Drop(
        installation_id=None if installation is None else installation.id,
        channel_type=message.source.channel_type,
        chat_id=message.source.chat_id,
        event_type=message.event_type,
        event_id=message.event_id,
        message_id=message.message_id,
        reason=reason,
        asked_to_bind=message.source.sender_id if asked else None,
    )
