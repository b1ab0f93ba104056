"""A reference-product database with bots in it, in either generation of its tables."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg.types.json import Jsonb

from gateway.postgres.driver import TrioConnection
from support import legacy_schema

Shape = Literal["lark", "channel"]
MADE_AT = "2026-01-02T03:04:05.678901+00:00"


@dataclass
class OldBot:
    """One installation with a person's direct chat and a group."""

    id: UUID
    agent_id: UUID
    app_id: str
    secret: str
    account: str = ""
    """The owner's, as this bot sees them."""
    direct_chat: str = "oc_direct"
    direct_id: UUID = field(default_factory=uuid4)
    group_id: UUID = field(default_factory=uuid4)


@dataclass
class OldWorld:
    """The old database. `key` is what sealed its secrets."""

    conninfo: str
    shape: Shape
    connection: TrioConnection[Any]
    key: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode())
    workspace_id: UUID = field(default_factory=uuid4)
    owner_id: UUID = field(default_factory=uuid4)
    runtime_id: UUID = field(default_factory=uuid4)
    leased_until: str = MADE_AT
    bots: int = 0

    async def build(self) -> None:
        """The tables, and a workspace `acme` with its owner and a runtime."""
        tables = legacy_schema.LARK if self.shape == "lark" else legacy_schema.CHANNEL
        await self.connection.execute((legacy_schema.PARENTS + tables).encode())
        await self.add('"user"', id=self.owner_id, name="Ada", email="Ada@Example.com", created_at=MADE_AT)
        await self.add(
            "workspace", id=self.workspace_id, name="Acme", slug="acme", issue_prefix="ACM", issue_counter=41
        )
        await self.add("member", workspace_id=self.workspace_id, user_id=self.owner_id, role="owner")
        await self.add(
            "agent_runtime", id=self.runtime_id, workspace_id=self.workspace_id, name="box", provider="claude"
        )

    async def add(self, table: str, **values: Any) -> None:
        row = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in values.items()}
        columns, marks = ", ".join(row), ", ".join(["%s"] * len(row))
        await self.connection.execute(f"insert into {table} ({columns}) values ({marks})".encode(), list(row.values()))

    async def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        cursor = await self.connection.execute(query.encode(), values)
        return await cursor.fetchall() if cursor.description else []

    def seal(self, plaintext: str) -> bytes:
        nonce = secrets.token_bytes(12)
        return nonce + AESGCM(base64.b64decode(self.key)).encrypt(nonce, plaintext.encode(), None)

    async def add_person(self, email: str, *, member: bool = True) -> UUID:
        user_id = uuid4()
        await self.add('"user"', id=user_id, name=email.partition("@")[0], email=email)
        if member:
            await self.add("member", workspace_id=self.workspace_id, user_id=user_id, role="member")
        return user_id

    async def add_agent(self, name: str) -> UUID:
        agent_id = uuid4()
        await self.add(
            "agent",
            id=agent_id,
            workspace_id=self.workspace_id,
            name=name,
            owner_id=self.owner_id,
            runtime_id=self.runtime_id,
            max_concurrent_tasks=3,
        )
        return agent_id

    async def add_bot(self, **config: Any) -> OldBot:
        """A bot with a row in every one of the seven tables; `config` adds to what the platform said of it."""
        self.bots += 1
        number, app_id = self.bots, f"cli_{self.bots:016}"
        agent_id = await self.add_agent(f"agent {number}")
        bot = OldBot(uuid4(), agent_id, app_id, f"fake-secret-{number}", f"ou_ada_{app_id}")
        await self.add_whole(bot, **config)
        return bot

    async def add_whole(self, bot: OldBot, **config: Any) -> None:
        await self.add_installation(bot, **config)
        for session_id, title in ((bot.direct_id, "direct"), (bot.group_id, "group")):
            await self.add(
                "chat_session",
                id=session_id,
                workspace_id=self.workspace_id,
                agent_id=bot.agent_id,
                creator_id=self.owner_id,
                title=title,
            )
            for second, (role, text) in enumerate((("user", "hello"), ("assistant", "hi"), ("user", "again"))):
                await self.add(
                    "chat_message",
                    chat_session_id=session_id,
                    role=role,
                    content=f"{title} {text}",
                    created_at=f"2026-01-02T03:04:0{second}+00:00",
                )
        await self.add_dependants(bot)

    async def add_installation(self, bot: OldBot, **config: Any) -> None:
        said = {"app_id": bot.app_id, "bot_open_id": f"ou_{bot.app_id}", **config}
        common = {
            "id": bot.id,
            "workspace_id": self.workspace_id,
            "agent_id": bot.agent_id,
            "installer_user_id": self.owner_id,
            "installed_at": MADE_AT,
            "ws_lease_token": "old-node-g7",
            "ws_lease_expires_at": self.leased_until,
        }
        sealed = self.seal(bot.secret)
        if self.shape == "lark":
            await self.add("lark_installation", **common, **said, app_secret_encrypted=sealed)
            return
        # Broken into lines, as some encoders do.
        text = base64.encodebytes(sealed).decode()
        await self.add(
            "channel_installation", **common, channel_type="feishu", config={**said, "app_secret_encrypted": text}
        )

    async def add_dependants(self, bot: OldBot) -> None:
        lark = self.shape == "lark"
        p2p_last = (
            {"last_lark_message_id": "om_1", "last_lark_thread_id": None} if lark else {"last_message_id": "om_1"}
        )
        table, names = self.table, self.names
        union = {"union_id": "on_ada"} if lark else {"config": {"union_id": "on_ada", "empty": None}}
        await self.add(
            table("user_binding"),
            workspace_id=self.workspace_id,
            multica_user_id=self.owner_id,
            installation_id=bot.id,
            bound_at=MADE_AT,
            **names(user_id=bot.account),
            **union,
        )
        chats: tuple[tuple[UUID, str, str, dict[str, Any]], ...] = (
            (bot.direct_id, "p2p", bot.direct_chat, p2p_last),
            (bot.group_id, "group", "oc_group", {}),
        )
        for session_id, kind, chat, last in chats:
            await self.add(
                table("chat_session_binding"),
                chat_session_id=session_id,
                installation_id=bot.id,
                chat_type=kind,
                **names(chat_id=chat),
                **last,
            )
        for message, processed_at in (("om_1", MADE_AT), ("om_2", None)):
            await self.add(
                table("inbound_message_dedup"), installation_id=bot.id, message_id=message, processed_at=processed_at
            )
        await self.add(
            table("inbound_audit"),
            installation_id=bot.id,
            event_type="im.message.receive_v1",
            drop_reason="unbound_user",
            **names(chat_id="oc_direct", event_id="ev_1", message_id="om_9"),
        )
        await self.add(
            table("outbound_card_message"),
            chat_session_id=bot.direct_id,
            task_id=uuid4(),
            status="final",
            **names(chat_id="oc_direct", card_message_id="om_card"),
        )
        await self.add(
            table("binding_token"),
            token_hash=secrets.token_hex(32),
            workspace_id=self.workspace_id,
            installation_id=bot.id,
            created_at=MADE_AT,
            expires_at="2026-01-02T03:19:05.678901+00:00",
            **names(user_id="ou_stranger"),
        )

    def table(self, name: str) -> str:
        return f"{self.shape}_{name}"

    def names(self, **columns: str) -> dict[str, str]:
        """What each generation calls a column of the platform's; the later one also says which platform."""
        if self.shape == "lark":
            return {"lark_open_id" if name == "user_id" else f"lark_{name}": value for name, value in columns.items()}
        return {"channel_type": "feishu"} | {f"channel_{name}": value for name, value in columns.items()}

    async def dump(self) -> bytes:
        """Everything in it, for telling whether anything changed."""
        names = await self.rows("select tablename from pg_tables where schemaname = 'public' order by 1")
        dump = {name: await self.rows(f'select to_jsonb(t)::text from "{name}" t order by 1') for (name,) in names}
        return msgspec.json.encode(dump)
