"""The inbound backend in Postgres."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from gateway.core.claim import ClaimRow
from gateway.inbound.ports import InboundStore
from gateway.postgres.inbound_store import PostgresInboundStore
from gateway.postgres.issue_store import PostgresIssueStore
from gateway.postgres.pool import Pool
from gateway.work.issues.issues import IssueStore
from gateway.work.tasks.ports import SILENT_SECONDS
from support.inbound_backend import Bot, StoredIssue, StoredMessage, StoredNotice, StoredSession, StoredTask
from support.rows import add_installation, add_workspace, insert, query


class PostgresInbound:
    """Implements support.inbound_backend.InboundBackend on an open pool."""

    def __init__(self, pool: Pool, *, window_seconds: float = 3.0) -> None:
        self.pool = pool
        self.store: InboundStore = PostgresInboundStore(pool, batch_window_seconds=window_seconds)
        self.issues: IssueStore = PostgresIssueStore(pool)

    async def run(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return await query(self.pool, sql, *parameters)

    async def add_bot(
        self,
        app_id: str = "cli_a",
        *,
        revoked: bool = False,
        allow_bots: bool = False,
        has_runtime: bool = True,
        archived: bool = False,
        language: str = "en",
    ) -> Bot:
        pool = self.pool
        workspace = await add_workspace(pool, app_id.replace("_", "-"), language=language)
        installer = await self._add_user()
        agent = await insert(
            pool, "agent", workspace_id=workspace, name="a", archived_at=datetime.now(UTC) if archived else None
        )
        installation = await add_installation(
            pool,
            workspace,
            agent,
            config={"app_id": app_id} | ({"allow_bots": True} if allow_bots else {}),
            status="revoked" if revoked else "active",
            installer_user_id=installer,
        )
        bot = Bot(installation, workspace, agent, installer, app_id)
        if has_runtime:
            await self.set_runtime(bot, there=True)
        return bot

    async def _add_user(self) -> UUID:
        return await insert(self.pool, "app_user", email=f"{uuid4()}@example.test")

    async def bind(self, bot: Bot, sender_id: str, *, member: bool = True) -> UUID:
        user_id = await self._add_user()
        await insert(
            self.pool,
            "channel_user_binding",
            workspace_id=bot.workspace_id,
            user_id=user_id,
            installation_id=bot.installation_id,
            channel_type="feishu",
            channel_user_id=sender_id,
        )
        if member:
            await self.run("insert into member values (%s, %s, 'member')", bot.workspace_id, user_id)
        return user_id

    async def speak(self, bot: Bot, message_id: str) -> None:
        await insert(
            self.pool,
            "outbound_message",
            workspace_id=bot.workspace_id,
            installation_id=bot.installation_id,
            kind="answer",
            recipient_id="oc_team",
            uuid=str(uuid4()),
            status="sent",
            channel_message_id=message_id,
        )

    async def remove_member(self, bot: Bot, user_id: UUID) -> None:
        await self.run("delete from member where workspace_id = %s and user_id = %s", bot.workspace_id, user_id)

    async def archive_agent(self, bot: Bot, *, archived: bool = True) -> None:
        await self.run(
            "update agent set archived_at = case when %s then now() end where id = %s", archived, bot.agent_id
        )

    async def set_runtime(self, bot: Bot, *, there: bool) -> None:
        runtime_id = uuid4() if there else None
        if there:
            await self.run(
                "insert into agent_runtime (id, workspace_id, name, last_heartbeat_at) values (%s, %s, %s, now())",
                runtime_id,
                bot.workspace_id,
                str(runtime_id),
            )
        await self.run("update agent set runtime_id = %s where id = %s", runtime_id, bot.agent_id)

    async def hear_runtime(self, bot: Bot, *, heard: bool) -> None:
        await self.run(
            "update agent_runtime set last_heartbeat_at = now() - make_interval(secs => %s)"
            " where id = (select runtime_id from agent where id = %s)",
            0 if heard else SILENT_SECONDS + 1,
            bot.agent_id,
        )

    async def archive_sessions(self) -> None:
        await self.run("update chat_session set archived_at = now()")

    async def delete_sessions(self) -> None:
        await self.run("delete from chat_session")

    async def start_tasks(self) -> None:
        await self.run("update agent_task set status = 'running'")

    async def age_claims(self, seconds: float) -> None:
        await self.run(
            "update channel_inbound_message_dedup set received_at = received_at - make_interval(secs => %s)", seconds
        )

    async def age_held(self, seconds: float) -> None:
        await self.run(
            "update channel_pending_command set created_at = created_at - make_interval(secs => %s)", seconds
        )

    async def sent(self, seconds_ago: float) -> datetime:
        moment: datetime
        ((moment,),) = await self.run("select now() - make_interval(secs => %s)", seconds_ago)
        return moment

    async def claims(self) -> dict[tuple[UUID, str], ClaimRow]:
        rows = await self.run(
            "select installation_id, message_id, claim_token, received_at, processed_at"
            " from channel_inbound_message_dedup"
        )
        return {(row[0], row[1]): ClaimRow(*row[2:]) for row in rows}

    async def drops(self) -> list[tuple[UUID | None, str, str]]:
        rows = await self.run(
            "select installation_id, channel_message_id, drop_reason from channel_inbound_audit order by received_at"
        )
        return [(row[0], row[1], row[2]) for row in rows]

    async def age_prompts(self, seconds: float) -> None:
        await self.run("update outbound_message set status = 'sent'")
        await self.run(
            "update channel_binding_prompt set prompted_at = prompted_at - make_interval(secs => %s)", seconds
        )

    async def prompts(self) -> list[tuple[UUID, str]]:
        rows = await self.run(
            "select installation_id, recipient_id, content from outbound_message"
            " where kind = 'binding_prompt' and recipient_type = 'user' order by seq"
        )
        assert all(content == "" for _, _, content in rows)
        return [(installation, person) for installation, person, _ in rows]

    async def messages(self) -> list[StoredMessage]:
        rows = await self.run(
            "select chat_session_id, author_user_id, content, kind, context_generation from chat_message order by seq"
        )
        return [StoredMessage(*row) for row in rows]

    async def sessions(self) -> list[StoredSession]:
        rows = await self.run(
            "select s.id, s.creator_id, s.title, b.channel_chat_id, b.config, b.last_message_id, b.last_thread_id"
            " from chat_session s join channel_chat_session_binding b on b.chat_session_id = s.id order by s.created_at"
        )
        return [StoredSession(*row) for row in rows]

    async def tasks(self) -> list[StoredTask]:
        rows = await self.run(
            "select chat_session_id, initiator_user_id, status, extract(epoch from available_at - created_at)::float8"
            " from agent_task where kind = 'chat' order by created_at"
        )
        return [StoredTask(*row) for row in rows]

    async def filed(self) -> list[StoredIssue]:
        rows = await self.run(
            "select number, title, description, creator_id, origin_id,"
            " (select count(*) from agent_task where agent_task.issue_id = issue.id and kind = 'issue')"
            " from issue where origin_type = 'lark_chat' and assignee_type = 'agent' order by number"
        )
        return [StoredIssue(*row) for row in rows]

    async def notices(self) -> list[StoredNotice]:
        rows = await self.run(
            "select recipient_id, coalesce(reply_to_message_id, ''), coalesce(thread_id, ''), content"
            " from outbound_message where kind = 'notice' order by seq"
        )
        return [StoredNotice(*row) for row in rows]
