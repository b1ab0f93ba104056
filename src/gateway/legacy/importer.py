"""The import from the reference product: its bots, their bindings, conversations, workspaces, people and agents.

The old database is read in one snapshot and never written to. In our database the whole import is one transaction.
A row that exists here already stays as it is. So an import may be repeated, also after it was killed, and it never
undoes a change that was made here since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from uuid import UUID

from gateway.keyring import KeyRing, UnreadableSecret
from gateway.legacy import rows
from gateway.legacy.rows import LegacyKey, LegacyKeyRefused, LegacyRecord, PlacedRows, Row, SkippedRow, uuid_in
from gateway.legacy.source_store import BATCH_ROWS, PostgresLegacySource
from gateway.legacy.target_store import Placement, PostgresLegacyTarget
from gateway.work.secrets import Progress

Translate = Callable[[Row, PlacedRows], LegacyRecord | SkippedRow]

DEPENDANTS: dict[str, Translate] = {
    "user_binding": rows.user_binding,
    "inbound_message_dedup": rows.inbound_message_dedup,
    "inbound_audit": rows.inbound_audit,
    "outbound_card_message": rows.outbound_card_message,
    "binding_token": rows.binding_token,
}
"""Old table, without its prefix → the function that translates its rows. Installations and conversations are copied
before these tables."""


Keep = Callable[[LegacyRecord], None]


def _forget(_made: LegacyRecord) -> None:
    """Keep nothing of a record, for tables that no later row refers to."""


TABLES = (
    "workspace",
    "app_user",
    "member",
    "agent_runtime",
    "agent",
    "chat_session",
    "chat_message",
    "channel_installation",
    "channel_user_binding",
    "channel_chat_session_binding",
    "channel_inbound_message_dedup",
    "channel_inbound_audit",
    "channel_outbound_card_message",
    "channel_binding_token",
)
"""Our tables, in the order in which a report names them."""


@dataclass(frozen=True, slots=True)
class ImportConflict:
    """A row that was not imported and that a person has to look at. `id` is its id in the old database."""

    table: str
    id: str
    reason: str


@dataclass(slots=True)
class Tally:
    """The counts of one table's rows by outcome."""

    new: int = 0
    unchanged: int = 0
    skipped: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class ImportReport:
    """Counts by our table, and the rows that a person has to look at.

    `still_held`: bots that the old server is still connected for.
    """

    tables: dict[str, Tally] = field(default_factory=lambda: {table: Tally() for table in TABLES})
    conflicts: list[ImportConflict] = field(default_factory=list)
    still_held: list[UUID] = field(default_factory=list)

    def count(self, table: str, placement: Placement) -> None:
        tally = self.tables[table]
        if placement is Placement.NEW:
            tally.new += 1
        else:
            tally.unchanged += 1

    def skip(self, table: str, row_id: str, skip: SkippedRow) -> None:
        tally = self.tables[table]
        tally.skipped += 1
        tally.reasons[skip.reason] += 1
        if skip.named:
            self.conflicts.append(ImportConflict(table, row_id, skip.reason))


@dataclass(frozen=True, slots=True)
class _OldBot:
    """An installation of the old database with its secrets opened. `broken` says why they cannot be opened."""

    row: Row
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    broken: str = ""


async def import_legacy(
    source: PostgresLegacySource, target: PostgresLegacyTarget, key: LegacyKey, ring: KeyRing, progress: Progress
) -> ImportReport:
    """Copy everything that belongs to a bot of the old database. The caller commits or rolls back.

    Raises LegacyKeyRefused when `key` opens none of the secrets. Nothing has been written then.
    """
    work = _Import(source, target, ring, progress)
    bots = await work.read_bots(key)
    await work.copy_parents([bot.row for bot in bots])
    await work.copy_installations(bots)
    await work.copy_conversations()
    for part, translate in DEPENDANTS.items():
        await work.copy(f"channel_{part}", part, translate)
    return work.report


class _Import:
    """One run of the import: the rows placed so far, and the report."""

    def __init__(
        self, source: PostgresLegacySource, target: PostgresLegacyTarget, ring: KeyRing, progress: Progress
    ) -> None:
        self._source = source
        self._target = target
        self._ring = ring
        self._progress = progress
        self._here = PlacedRows()
        self.report = ImportReport()

    # --- installations ------------------------------------------------------------------------------------------------

    async def read_bots(self, key: LegacyKey) -> list[_OldBot]:
        """Read every bot of a platform that is served here, and open its secrets.

        This comes before all writes, because an import with a wrong key must write nothing.
        """
        bots: list[_OldBot] = []
        for row in await self._all("installation"):
            if (foreign := rows.foreign_type(row)) is not None:
                self._skip("channel_installation", row, foreign)
            else:
                bots.append(_opened(row, key))
        broken = [bot for bot in bots if bot.broken]
        if broken and not any(bot.secrets for bot in bots):
            raise LegacyKeyRefused(
                f"the legacy key opens the secrets of none of {len(broken)} bots, so nothing was imported; give"
                " the value of MULTICA_LARK_SECRET_KEY that the old server ran with"
            )
        return bots

    async def copy_installations(self, bots: Sequence[_OldBot]) -> None:
        table = "channel_installation"
        for number, bot in enumerate(bots, 1):
            self._progress(table, number, len(bots))
            broken = SkippedRow(f"its secrets cannot be moved: {bot.broken}", named=True) if bot.broken else None
            made = broken or rows.installation(bot.row, bot.secrets, self._ring, self._here)
            if isinstance(made, SkippedRow):
                self._skip(table, bot.row, made)
            else:
                await self._place_installation(bot.row, made)

    async def _place_installation(self, row: Row, made: LegacyRecord) -> None:
        table = "channel_installation"
        (placement,) = await self._target.add(table, [made])
        # An active bot may take its app over from a dead installation, as it may when a bot is added by hand.
        if placement is Placement.TAKEN and made["status"] == "active" and await self._target.reclaim(made):
            (placement,) = await self._target.add(table, [made])
        if placement is Placement.TAKEN:
            self._skip(table, row, SkippedRow(await self._target.obstacle(made), named=True))
            return
        self.report.count(table, placement)
        if row.get("lease_runs") and made["status"] == "active":
            self.report.still_held.append(made["id"])
        self._here.installations[made["id"]] = made["workspace_id"]

    # --- parents ------------------------------------------------------------------------------------------------------

    async def copy_parents(self, installations: Sequence[Row]) -> None:
        """Copy the workspaces of the bots with all their people and agents."""
        workspaces = _ids(installations, "workspace_id")
        members = await self._all("member", workspaces)
        agents = await self._all("agent", workspaces)
        people = {
            *_ids(members, "user_id"),
            *_ids(agents, "owner_id"),
            *_ids(installations, "installer_user_id"),
        }
        here = self._here
        await self.copy(
            "workspace", "workspace", _workspace, workspaces, keep=lambda made: here.workspaces.add(made["id"])
        )
        await self._copy_users(sorted(people))
        await self._copy_read(
            "member", members, rows.member, keep=lambda made: here.members.add((made["workspace_id"], made["user_id"]))
        )
        await self.copy("agent_runtime", "agent_runtime", rows.runtime, _ids(agents, "runtime_id"))
        await self._copy_read(
            "agent", agents, rows.agent, keep=lambda made: here.agents.add((made["workspace_id"], made["id"]))
        )

    async def _copy_users(self, ids: Sequence[UUID]) -> None:
        async def place(batch: list[Row]) -> None:
            made = self._translated("app_user", batch, _user)
            placed = await self._target.add_users([record for _, record in made])
            for (row, record), (placement, ours) in zip(made, placed, strict=True):
                if ours is None:
                    self._skip("app_user", row, SkippedRow("the e-mail address was taken this very moment", named=True))
                else:
                    self.report.count("app_user", placement)
                    self._here.users[record["id"]] = ours

        await self._read("app_user", "user", ids, place)

    # --- conversations ------------------------------------------------------------------------------------------------

    async def copy_conversations(self) -> None:
        """Copy the conversations that belong to a chat, then their messages, then the chats."""
        chats = [row for row in await self._all("chat_session_binding") if self._is_served(row)]
        direct = {uuid_in(row, "chat_session_id") for row in chats if row.get("chat_type") == "p2p"}

        def keep(made: LegacyRecord) -> None:
            self._here.sessions.add(made["id"])
            if made["id"] in direct and made["creator_id"] is not None:
                self._here.speakers[made["id"]] = made["creator_id"]

        await self.copy("chat_session", "chat_session", rows.session, _ids(chats, "chat_session_id"), keep=keep)
        await self.copy("chat_message", "chat_message", rows.message, sorted(self._here.sessions))
        await self.copy("channel_chat_session_binding", "chat_session_binding", rows.chat_session_binding)

    def _is_served(self, row: Row) -> bool:
        return uuid_in(row, "installation_id") in self._here.installations

    # --- rows of one table --------------------------------------------------------------------------------------------

    async def copy(
        self, table: str, part: str, translate: Translate, ids: Sequence[UUID] = (), *, keep: Keep = _forget
    ) -> None:
        """Copy a table. `keep` is called with every record that exists here afterwards, new or known."""
        await self._read(table, part, ids, lambda batch: self._place(table, batch, translate, keep))

    async def _copy_read(self, table: str, read: Sequence[Row], translate: Translate, *, keep: Keep) -> None:
        """Copy rows that were read before, as `copy` does."""
        for start in range(0, len(read), BATCH_ROWS):
            await self._place(table, read[start : start + BATCH_ROWS], translate, keep)
            self._progress(table, min(start + BATCH_ROWS, len(read)), len(read))

    async def _read(
        self, table: str, part: str, ids: Sequence[UUID], place: Callable[[list[Row]], Awaitable[None]]
    ) -> None:
        done = 0
        async with aclosing(self._source.read(part, ids)) as batches:
            async for batch, total in batches:
                await place(batch)
                done += len(batch)
                self._progress(table, done, total)

    async def _place(self, table: str, batch: Sequence[Row], translate: Translate, keep: Keep) -> None:
        made = self._translated(table, batch, translate)
        placed = await self._target.add(table, [record for _, record in made])
        for (row, record), placement in zip(made, placed, strict=True):
            if placement is Placement.TAKEN:
                self._skip(table, row, SkippedRow("something else stands in its place here", named=True))
            else:
                self.report.count(table, placement)
                keep(record)

    def _translated(self, table: str, batch: Sequence[Row], translate: Translate) -> list[tuple[Row, LegacyRecord]]:
        made = []
        for row in batch:
            result = translate(row, self._here)
            if isinstance(result, SkippedRow):
                self._skip(table, row, result)
            else:
                made.append((row, result))
        return made

    def _skip(self, table: str, row: Row, skip: SkippedRow) -> None:
        self.report.skip(table, rows.text_in(row, "id", "message_id", "token_hash"), skip)

    async def _all(self, part: str, ids: Sequence[UUID] = ()) -> list[Row]:
        async with aclosing(self._source.read(part, ids)) as batches:
            return [row async for batch, _ in batches for row in batch]


def _workspace(row: Row, _here: PlacedRows) -> LegacyRecord | SkippedRow:
    return rows.workspace(row)


def _user(row: Row, _here: PlacedRows) -> LegacyRecord | SkippedRow:
    return rows.user(row)


def _opened(row: Row, key: LegacyKey) -> _OldBot:
    try:
        return _OldBot(row, {name: key.open(sealed) for name, sealed in rows.sealed_secrets(row).items()})
    except UnreadableSecret as error:
        return _OldBot(row, broken=str(error))


def _ids(read: Sequence[Row], name: str) -> list[UUID]:
    return sorted({id_ for row in read if (id_ := uuid_in(row, name)) is not None})
