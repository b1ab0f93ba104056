"""Commands in a chat: stored like any message, and carried out by the gateway instead of the agent.

The command is stored and its claim is marked before it is carried out. After a failure in between, a redelivery finds
the mark and does not repeat the command, so nothing is done twice. The reply to the sender is written in the same
transaction as the change it reports.

A command that is already too old when it arrives is not carried out, because its sender may have moved on. It is held
instead. It runs if `/confirm` is the next thing the sender says within `HELD_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import UUID

from gateway.channel.message import IMAGE_MARKER
from gateway.concurrency import reached
from gateway.core.attachments import download_path
from gateway.core.commands import (
    Command,
    Confirm,
    FileIssue,
    StartFresh,
    description_of,
    description_with_media,
    fresh_body,
    title_from,
    with_quote,
)
from gateway.core.commands import parse_command as parse
from gateway.core.inbound import InboundOutcome, Settlement
from gateway.core.replies import Reply, issue_link, quoted, say
from gateway.ids import new_id
from gateway.inbound.ports import HeldCommand, InboundStore, MessageClaim, QuoteOf, UserMessage
from gateway.inbound.turn import Turn, quoted_by, words_of
from gateway.work.issues.issues import Filed, IssueDraft, IssueFile, IssueService
from gateway.work.tasks.notices import Notice
from gateway.work.tasks.sessions import Queueing

HELD_SECONDS = 3600.0

OUTCOMES = {
    Queueing.QUEUED: InboundOutcome.INGESTED,
    Queueing.RUNTIME_SILENT: InboundOutcome.INGESTED,
    Queueing.AGENT_OFFLINE: InboundOutcome.AGENT_OFFLINE,
    Queueing.AGENT_ARCHIVED: InboundOutcome.AGENT_ARCHIVED,
    Queueing.SESSION_ARCHIVED: InboundOutcome.INGESTED,
}
"""The outcome of a message, by the result of queueing its run."""

_RUN_OBSTACLES = {
    Queueing.RUNTIME_SILENT: Reply.RUN_OFFLINE,
    Queueing.AGENT_OFFLINE: Reply.RUN_OFFLINE,
    Queueing.AGENT_ARCHIVED: Reply.RUN_ARCHIVED,
}


@dataclass(frozen=True, slots=True)
class _IssueWords:
    """The title of an issue, and the lines that a quote adds to its description."""

    title: str = field(repr=False)
    added: str = field(repr=False)

    def described(self, description: str) -> str:
        return "\n\n".join(part for part in (description, self.added) if part)


class CommandService:
    """Carries out commands. Stateless: any number of commands may be in progress at a time.

    Every method that returns a settlement returns None when the claim was lost. Nothing was written then.
    """

    def __init__(
        self,
        store: InboundStore,
        issues: IssueService,
        *,
        public_url: str | None = None,
        stale_after_seconds: float = 600.0,
        quote_of: QuoteOf | None = None,
        mint: Callable[[], UUID] = new_id,
    ) -> None:
        """`public_url` is the base of the links to issue pages. Without it the replies have no links.

        Without `quote_of` an `/issue` takes nothing from the message that it answers.
        """
        self._store = store
        self._issues = issues
        self._public_url = public_url
        self._stale_after = stale_after_seconds
        self._quote_of = quote_of
        self._mint = mint

    async def take(self, command: Command, turn: Turn) -> Settlement | None:
        """Store the command and carry it out.

        Raises any error that occurs on the way. The claim shows how far the command got: a marked claim means that the
        command is stored, and that a redelivery will not carry out the rest.
        """
        age = 0.0 if turn.message.sent_at is None else await self._store.age_of(turn.message.sent_at)
        stale = age > self._stale_after
        match command:
            case Confirm():
                return await (self._refuse_confirmation(turn) if stale else self._confirm(turn))
            case FileIssue():
                words = await self._issue_words(command, turn, quoted_by(turn.message), before=None)
                if not words.title:
                    return await self._keep(turn, InboundOutcome.ISSUE_USAGE, notice=turn.say(Reply.ISSUE_USAGE))
                return await (self._hold(turn, age) if stale else self._keep_and_file(command, words, turn))
            case StartFresh(text):
                if stale:
                    return await self._hold(turn, age)
                return await (self._start_over(text, turn) if text else self._clear(turn))

    # /issue

    async def _issue_words(self, command: FileIssue, turn: Turn, quoted_id: str, *, before: UUID | None) -> _IssueWords:
        """Return the title of an issue, and what the message that its command answers adds to the description.

        A bare command whose quote has no title takes the sender's previous message. Words of the quote are stored,
        because the member asked to file them.
        """
        quote = "" if self._quote_of is None or not quoted_id else await self._quote_of(turn.place, quoted_id)
        title, added = with_quote(command, quote)
        if not title:
            former = await self._store.find_former_words(turn.session_id, turn.author_id, before=before)
            title = title_from(former)
        return _IssueWords(title, added)

    async def _keep_and_file(self, command: FileIssue, words: _IssueWords, turn: Turn) -> Settlement | None:
        settlement = await self._keep(turn, InboundOutcome.INGESTED)
        if settlement is not None:
            asked = HeldCommand(turn.row_id, words_of(turn.message), turn.message.text)
            await self._file(words, command, asked, turn)
        return settlement

    async def _file(self, words: _IssueWords, command: FileIssue, asked: HeldCommand, turn: Turn) -> None:
        """File the issue. The files of `asked`, the message with the command, become the issue's files.

        The reply answers `turn`, which is the `/confirm` if the command was held.
        """
        draft = IssueDraft(
            turn.installation.workspace_id,
            words.title,
            words.described(description_of(asked.body, asked.words, fallback=command.description)),
            assignee_type="agent",
            assignee_id=turn.installation.agent_id,
            creator_id=turn.author_id,
            origin_type="lark_chat",
            origin_id=turn.session_id,
            source_message_id=asked.message_id,
        )
        await self._issues.file(
            draft, notice=partial(self._tell_filed, turn), illustrate=partial(_illustrated, command, asked, words)
        )

    def _tell_filed(self, turn: Turn, filed: Filed) -> Notice:
        reply = Reply.ISSUE_DUPLICATE if filed.duplicate else Reply.ISSUE_CREATED
        language = turn.installation.language
        lines = [
            say(reply, language, issue=filed.identifier, title=quoted(filed.issue.title)),
            issue_link(self._public_url, filed.identifier),
        ]
        if filed.queueing in _RUN_OBSTACLES:
            lines.append(say(_RUN_OBSTACLES[filed.queueing], language))
        return turn.notice("\n".join(line for line in lines if line))

    # /new

    async def _clear(self, turn: Turn) -> Settlement | None:
        """Carry out a `/new` without text.

        It says nothing to the agent, so no message is stored and no run is queued.
        """
        notice = turn.say(Reply.FRESH_PENDING)
        if not await self._store.start_fresh(turn.session_id, turn.author_id, turn.claim, notice):
            return None
        reached("inbound.committed")
        return Settlement(InboundOutcome.FRESH_PENDING)

    async def _start_over(self, text: str, turn: Turn) -> Settlement | None:
        body = fresh_body(turn.message.text, words_of(turn.message), fallback=text)
        return await self._append_fresh(replace(turn.entry(), text=body, fresh=True), turn, turn.claim)

    async def _append_fresh(self, entry: UserMessage, turn: Turn, claim: MessageClaim | None) -> Settlement | None:
        """Append the first message of a new generation. It is never read as a command, even if it looks like one."""
        queueing = await self._store.append(entry, claim, turn.absence_notices())
        if queueing is None:
            return None
        reached("inbound.committed")
        return Settlement(OUTCOMES[queueing])

    # commands that were too old when they arrived

    async def _hold(self, turn: Turn, age_seconds: float) -> Settlement | None:
        words = words_of(turn.message)
        notice = turn.say(
            Reply.STALE, minutes=round(age_seconds / 60), command=quoted(words.strip().partition("\n")[0])
        )
        return await self._keep(turn, InboundOutcome.COMMAND_HELD, notice=notice, held_words=words)

    async def _refuse_confirmation(self, turn: Turn) -> Settlement | None:
        """Refuse a `/confirm` that is old itself.

        The question about the held command was asked after it was written.
        """
        return await self._keep(turn, InboundOutcome.INGESTED, notice=turn.say(Reply.NOTHING_TO_CONFIRM))

    async def _confirm(self, turn: Turn) -> Settlement | None:
        confirmed = await self._store.confirm(
            turn.entry(), turn.claim, held_seconds=HELD_SECONDS, otherwise=turn.say(Reply.NOTHING_TO_CONFIRM)
        )
        if confirmed is None:
            return None
        reached("inbound.committed")
        if confirmed.held is not None:
            return await self._run(confirmed.held, turn)
        return Settlement(InboundOutcome.INGESTED)

    async def _run(self, held: HeldCommand, turn: Turn) -> Settlement | None:
        """Carry out the held command that `turn` confirms. The replies answer `turn`."""
        match parse(held.words):
            case FileIssue() as command:
                words = await self._issue_words(command, turn, held.quoted_id, before=held.message_id)
                await self._file(words, command, held, turn)
            case StartFresh(text) if text:
                body = fresh_body(held.body, held.words, fallback=text)
                entry = turn.entry()
                entry = replace(entry, id=self._mint(), text=body, fresh=True, media=(), media_of=held.message_id)
                return await self._append_fresh(entry, turn, None)
            case StartFresh():
                await self._store.start_fresh(turn.session_id, turn.author_id, None, turn.say(Reply.FRESH_PENDING))
                return Settlement(InboundOutcome.FRESH_PENDING)
        return Settlement(InboundOutcome.INGESTED)

    async def _keep(
        self, turn: Turn, outcome: InboundOutcome, *, notice: Notice | None = None, held_words: str | None = None
    ) -> Settlement | None:
        if not await self._store.append_command(turn.entry(), turn.claim, notice=notice, held_words=held_words):
            return None
        reached("inbound.committed")
        return Settlement(outcome)


def _illustrated(command: FileIssue, asked: HeldCommand, words: _IssueWords, files: Sequence[IssueFile]) -> str | None:
    """Return the description with links in place of its image markers, or None when nothing was replaced."""
    images = [file.id for file in files if file.kind == "image"]
    places = [(IMAGE_MARKER, k, f"![]({download_path(image)})") for k, image in enumerate(images)]
    text, changed = description_with_media(asked.body, asked.words, places, fallback=command.description)
    return words.described(text) if changed else None
