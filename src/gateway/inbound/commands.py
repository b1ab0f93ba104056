"""What becomes of a command: it is kept like any message, and done by the gateway instead of being told to the agent.

The command is durable, and its claim marked, before anything is done: a failure after that is never repeated by a
redelivery, so nothing is done twice. What its sender is told is written in the transaction that it tells of.

A command that was too old when it arrived is not run, because its sender may have moved on. It is held, and runs if
`/confirm` is the next thing they say within `HELD_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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
)
from gateway.core.commands import parse_command as parse
from gateway.core.inbound import Outcome, Settlement
from gateway.core.replies import Reply, issue_link, quoted, say
from gateway.ids import new_id
from gateway.inbound.ports import Claim, HeldCommand, InboundStore, UserMessage
from gateway.inbound.turn import Turn, words_of
from gateway.work.issues.issues import Filed, IssueDraft, IssueFile, IssueService
from gateway.work.tasks.notices import Notice
from gateway.work.tasks.sessions import Queueing

HELD_SECONDS = 3600.0

OUTCOMES = {
    Queueing.QUEUED: Outcome.INGESTED,
    Queueing.RUNTIME_SILENT: Outcome.INGESTED,
    Queueing.AGENT_OFFLINE: Outcome.AGENT_OFFLINE,
    Queueing.AGENT_ARCHIVED: Outcome.AGENT_ARCHIVED,
    Queueing.SESSION_ARCHIVED: Outcome.INGESTED,
}
"""What a message came to, by what became of the run it asked for."""

_RUN_OBSTACLES = {
    Queueing.RUNTIME_SILENT: Reply.RUN_OFFLINE,
    Queueing.AGENT_OFFLINE: Reply.RUN_OFFLINE,
    Queueing.AGENT_ARCHIVED: Reply.RUN_ARCHIVED,
}


class CommandService:
    """Takes commands. Stateless: any number may be taken at a time.

    Every method that returns a settlement returns None when the claim was lost: then nothing was written.
    """

    def __init__(
        self,
        store: InboundStore,
        issues: IssueService,
        *,
        public_url: str | None = None,
        stale_after_seconds: float = 600.0,
        mint: Callable[[], UUID] = new_id,
    ) -> None:
        """`public_url` is where people find an issue's page; without one the replies have no links."""
        self._store = store
        self._issues = issues
        self._public_url = public_url
        self._stale_after = stale_after_seconds
        self._mint = mint

    async def take(self, command: Command, turn: Turn) -> Settlement | None:
        """Keep the command and do what it asks for.

        Raises whatever went wrong. The claim says how far it got: one that is marked stands for a kept command, and
        keeps a redelivery from doing the rest.
        """
        age = 0.0 if turn.message.sent_at is None else await self._store.age_of(turn.message.sent_at)
        stale = age > self._stale_after
        match command:
            case Confirm():
                return await (self._refuse_confirmation(turn) if stale else self._confirm(turn))
            case FileIssue():
                title = await self._title(command, turn, before=None)
                if not title:
                    return await self._keep(turn, Outcome.ISSUE_USAGE, notice=turn.say(Reply.ISSUE_USAGE))
                return await (self._hold(turn, age) if stale else self._keep_and_file(command, title, turn))
            case StartFresh(text):
                if stale:
                    return await self._hold(turn, age)
                return await (self._start_over(text, turn) if text else self._clear(turn))

    # /issue

    async def _title(self, command: FileIssue, turn: Turn, *, before: UUID | None) -> str:
        if command.title:
            return command.title
        return title_from(await self._store.find_former_words(turn.session_id, turn.author_id, before=before))

    async def _keep_and_file(self, command: FileIssue, title: str, turn: Turn) -> Settlement | None:
        settlement = await self._keep(turn, Outcome.INGESTED)
        if settlement is not None:
            asked = HeldCommand(turn.row_id, words_of(turn.message), turn.message.text)
            await self._file(title, command, asked, turn)
        return settlement

    async def _file(self, title: str, command: FileIssue, asked: HeldCommand, turn: Turn) -> None:
        """`asked` is the message that asked for it, whose files become the issue's; `turn` what the reply answers."""
        draft = IssueDraft(
            turn.installation.workspace_id,
            title,
            description_of(asked.body, asked.words, fallback=command.description),
            assignee_type="agent",
            assignee_id=turn.installation.agent_id,
            creator_id=turn.author_id,
            origin_type="lark_chat",
            origin_id=turn.session_id,
            source_message_id=asked.message_id,
        )
        await self._issues.file(
            draft, notice=partial(self._tell_filed, turn), illustrate=partial(_illustrated, command, asked)
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
        """A bare one: nothing is said yet, so nothing is kept and nobody runs."""
        notice = turn.say(Reply.FRESH_PENDING)
        if not await self._store.start_fresh(turn.session_id, turn.author_id, turn.claim, notice):
            return None
        reached("inbound.committed")
        return Settlement(Outcome.FRESH_PENDING)

    async def _start_over(self, text: str, turn: Turn) -> Settlement | None:
        body = fresh_body(turn.message.text, words_of(turn.message), fallback=text)
        return await self._append_fresh(replace(turn.entry(), text=body, fresh=True), turn, turn.claim)

    async def _append_fresh(self, entry: UserMessage, turn: Turn, claim: Claim | None) -> Settlement | None:
        """The first message of a new generation, whatever it looks like: no command is read from it."""
        queueing = await self._store.append(entry, claim, turn.obstacles())
        if queueing is None:
            return None
        reached("inbound.committed")
        return Settlement(OUTCOMES[queueing])

    # commands that came too late

    async def _hold(self, turn: Turn, age_seconds: float) -> Settlement | None:
        words = words_of(turn.message)
        notice = turn.say(
            Reply.STALE, minutes=round(age_seconds / 60), command=quoted(words.strip().partition("\n")[0])
        )
        return await self._keep(turn, Outcome.COMMAND_HELD, notice=notice, held_words=words)

    async def _refuse_confirmation(self, turn: Turn) -> Settlement | None:
        """One that is old itself: whatever is held was not asked about when it was written."""
        return await self._keep(turn, Outcome.INGESTED, notice=turn.say(Reply.NOTHING_TO_CONFIRM))

    async def _confirm(self, turn: Turn) -> Settlement | None:
        confirmed = await self._store.confirm(
            turn.entry(), turn.claim, held_seconds=HELD_SECONDS, otherwise=turn.say(Reply.NOTHING_TO_CONFIRM)
        )
        if confirmed is None:
            return None
        reached("inbound.committed")
        if confirmed.held is not None:
            return await self._run(confirmed.held, turn)
        return Settlement(Outcome.INGESTED)

    async def _run(self, held: HeldCommand, turn: Turn) -> Settlement | None:
        """Run what is confirmed by `turn`, which is what the replies answer to."""
        match parse(held.words):
            case FileIssue() as command:
                title = await self._title(command, turn, before=held.message_id)
                await self._file(title, command, held, turn)
            case StartFresh(text) if text:
                body = fresh_body(held.body, held.words, fallback=text)
                entry = turn.entry()
                entry = replace(entry, id=self._mint(), text=body, fresh=True, media=(), media_of=held.message_id)
                return await self._append_fresh(entry, turn, None)
            case StartFresh():
                await self._store.start_fresh(turn.session_id, turn.author_id, None, turn.say(Reply.FRESH_PENDING))
                return Settlement(Outcome.FRESH_PENDING)
        return Settlement(Outcome.INGESTED)

    async def _keep(
        self, turn: Turn, outcome: Outcome, *, notice: Notice | None = None, held_words: str | None = None
    ) -> Settlement | None:
        if not await self._store.append_command(turn.entry(), turn.claim, notice=notice, held_words=held_words):
            return None
        reached("inbound.committed")
        return Settlement(outcome)


def _illustrated(command: FileIssue, asked: HeldCommand, files: Sequence[IssueFile]) -> str | None:
    """The description with its pictures in place; None when there are none in it."""
    images = [file.id for file in files if file.kind == "image"]
    places = [(IMAGE_MARKER, k, f"![]({download_path(image)})") for k, image in enumerate(images)]
    text, changed = description_with_media(asked.body, asked.words, places, fallback=command.description)
    return text if changed else None
