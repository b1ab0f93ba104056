"""The translation of rows of the reference product's database into rows of ours.

Each function takes an old row and returns a record, or a Skip with the reason why there is none.

A row is the JSON form that the old database gives of it. A column that an older or newer schema does not have is just
absent. Two generations of tables are known: `lark_*`, and the later `channel_*`, which keep the fields that are
specific to Lark in a JSON config.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.core.inbound import DropReason
from gateway.errors import GatewayError
from gateway.keyring import KEY_BYTES, KeyRing, UnreadableSecret
from gateway.work.people.access import ROLES
from gateway.work.people.directory import RESERVED_SLUGS

CHANNEL_TYPE = "feishu"
REGIONS = ("feishu", "lark")
_SEALED_SUFFIX = "_encrypted"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_TOKEN_HASH = re.compile(r"[0-9a-f]{64}")
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]*")
_PREFIX = re.compile(r"[A-Z][A-Z0-9]{0,9}")
_DROP_REASONS = frozenset(reason.value for reason in DropReason)
_CARD_STATES = frozenset({"pending", "streaming", "final", "error"})
_MADE_IDS = UUID("6f6c6420-6175-4469-b420-726f77206964")

Row = Mapping[str, Any]
Record = dict[str, Any]


class LegacyKeyRefused(GatewayError):
    """The old key is malformed, or it is not the key that sealed the old database's secrets."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The reason why a row is not imported. `named`: a person has to look at this row."""

    reason: str
    named: bool = False


class LegacyKey:
    """The only key of the old database.

    A sealed secret is nonce (12) | ciphertext | tag (16), without associated data.
    """

    def __init__(self, text: str) -> None:
        """Raises LegacyKeyRefused when `text` is not base64 of 32 bytes."""
        try:
            key = base64.b64decode("".join(text.split()), validate=True)
        except ValueError:
            # The error is raised below, outside this block, because its cause must never carry the key.
            key = b""
        if len(key) != KEY_BYTES:
            raise LegacyKeyRefused(
                f"the legacy key is not base64 of {KEY_BYTES} bytes; give what the old server has in"
                " MULTICA_LARK_SECRET_KEY"
            )
        self._cipher = AESGCM(key)

    def open(self, sealed: object) -> str:
        """Open a secret. `sealed` is in hex, as Postgres shows bytes, or in base64. Raises UnreadableSecret."""
        try:
            raw = _sealed_bytes(str(sealed))
            if len(raw) < _NONCE_BYTES + _TAG_BYTES:
                raise UnreadableSecret("the old database's secret is too short to be one")
            return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], None).decode()
        except (InvalidTag, ValueError) as error:
            raise UnreadableSecret("the legacy key does not open it") from error


def _sealed_bytes(text: str) -> bytes:
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    # The old product's decoders accept base64 that was broken into lines.
    return base64.b64decode("".join(text.split()), validate=True)


@dataclass(slots=True)
class Standing:
    """The rows placed so far, by their old ids. A later row can only refer to rows that are listed here."""

    workspaces: set[UUID] = field(default_factory=set)
    users: dict[UUID, UUID] = field(default_factory=dict)
    """Old id → ours, which differs for a person who was here before under the same e-mail address."""
    members: set[tuple[UUID, UUID]] = field(default_factory=set)
    """(workspace, our user id)."""
    agents: set[tuple[UUID, UUID]] = field(default_factory=set)
    """(workspace, agent)."""
    installations: dict[UUID, UUID] = field(default_factory=dict)
    """Installation → its workspace."""
    sessions: set[UUID] = field(default_factory=set)
    speakers: dict[UUID, UUID] = field(default_factory=dict)
    """Session of a direct chat → the person who chats with the bot, by our user id."""

    def user(self, row: Row, *names: str) -> UUID | None:
        """Return our user id for the person that the first set column of `names` refers to."""
        old = uuid_in(row, *names)
        return self.users.get(old) if old is not None else None


# --- reading what may be missing --------------------------------------------------------------------------------------


def uuid_in(row: Row, *names: str) -> UUID | None:
    """Return the value of the first column of `names` that is set, if it is an id."""
    try:
        return UUID(text_in(row, *names))
    except ValueError:
        return None


def text_in(row: Row, *names: str) -> str:
    """Return the first column of `names` that is not empty, as text, or "" when all are empty."""
    return next((str(row[name]) for name in names if _says(row.get(name))), "")


def _says(value: object) -> bool:
    return value is not None and value not in ("", [], {})


def id_of(row: Row) -> UUID:
    """Return the row's own id. A row without a usable id gets an id made from its content, the same in every run."""
    return uuid_in(row, "id") or uuid5(_MADE_IDS, msgspec.json.encode(dict(row), order="sorted").decode())


def _config_of(row: Row) -> Record:
    config = row.get("config")
    return dict(config) if isinstance(config, Mapping) else {}


def foreign_type(row: Row) -> Skip | None:
    """Return a Skip if the row belongs to another platform, because other platforms share the later tables."""
    channel_type = text_in(row, "channel_type") or CHANNEL_TYPE
    return None if channel_type == CHANNEL_TYPE else Skip(f"of channel type {channel_type}, which is not served here")


# --- parents ----------------------------------------------------------------------------------------------------------


def workspace(row: Row) -> Record:
    """Translate a workspace.

    A slug or an issue prefix that cannot be stored here is replaced by one made from the name.
    """
    name = text_in(row, "name", "slug") or "Workspace"
    slug = text_in(row, "slug").lower()
    if not _SLUG.fullmatch(slug):
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "workspace"
    prefix = text_in(row, "issue_prefix").upper()
    if not _PREFIX.fullmatch(prefix):
        letters = re.sub(r"[^A-Z]", "", name.upper())[:3]
        prefix = letters or "WS"
    settings = row.get("settings")
    return {
        "id": uuid_in(row, "id"),
        "name": name,
        "slug": f"{slug}-{str(uuid_in(row, 'id'))[:8]}" if slug in RESERVED_SLUGS else slug,
        "issue_prefix": prefix,
        "issue_counter": row.get("issue_counter") or 0,
        "settings": settings if isinstance(settings, Mapping) else {},
        "created_at": row.get("created_at"),
        "updated_at": row.get("updated_at"),
    }


def user(row: Row) -> Record | Skip:
    """Translate a person, without a password, because the old product stores none that could be checked here."""
    email = text_in(row, "email").strip().lower()
    if email.find("@") < 1:
        return Skip("a person without an e-mail address")
    return {"id": uuid_in(row, "id"), "email": email, "name": text_in(row, "name"), "created_at": row.get("created_at")}


def member(row: Row, here: Standing) -> Record | Skip:
    workspace_id, user_id = uuid_in(row, "workspace_id"), here.user(row, "user_id")
    if workspace_id not in here.workspaces:
        return Skip("of a workspace that is not here")
    if user_id is None:
        return Skip("of a person who is not here")
    role = text_in(row, "role")
    return {
        "workspace_id": workspace_id,
        "user_id": user_id,
        "role": role if role in ROLES else "member",
        "created_at": row.get("created_at"),
    }


def runtime(row: Row, here: Standing) -> Record | Skip:
    if uuid_in(row, "workspace_id") not in here.workspaces:
        return Skip("of a workspace that is not here")
    return {
        "id": uuid_in(row, "id"),
        "workspace_id": uuid_in(row, "workspace_id"),
        "name": text_in(row, "name", "provider") or "runtime",
        "kind": text_in(row, "kind", "provider", "type"),
        "version": text_in(row, "version"),
        "created_at": row.get("created_at"),
    }


def agent(row: Row, here: Standing) -> Record | Skip:
    if uuid_in(row, "workspace_id") not in here.workspaces:
        return Skip("of a workspace that is not here")
    most = row.get("max_concurrent_tasks")
    return {
        "id": uuid_in(row, "id"),
        "workspace_id": uuid_in(row, "workspace_id"),
        "name": text_in(row, "name") or "Agent",
        "owner_id": here.user(row, "owner_id"),
        "runtime_id": uuid_in(row, "runtime_id"),
        # An unknown visibility becomes private, so that an import never makes an agent more visible.
        "visibility": "workspace" if text_in(row, "visibility") in {"workspace", ""} else "private",
        "max_concurrent_tasks": most if isinstance(most, int) and most > 0 else 6,
        "archived_at": row.get("archived_at"),
        "created_at": row.get("created_at"),
    }


def session(row: Row, here: Standing) -> Record | Skip:
    workspace_id, agent_id = uuid_in(row, "workspace_id"), uuid_in(row, "agent_id")
    if workspace_id is None or agent_id is None or (workspace_id, agent_id) not in here.agents:
        return Skip("of an agent that is not here")
    archived_at = row.get("archived_at")
    if text_in(row, "status") == "archived":
        archived_at = archived_at or row.get("updated_at") or row.get("created_at")
    return {
        "id": uuid_in(row, "id"),
        "workspace_id": workspace_id,
        "agent_id": agent_id,
        "creator_id": here.user(row, "creator_id"),
        "title": text_in(row, "title"),
        "archived_at": archived_at,
        "created_at": row.get("created_at"),
        "updated_at": row.get("updated_at"),
    }


def message(row: Row, here: Standing) -> Record | Skip:
    session_id, role = uuid_in(row, "chat_session_id"), text_in(row, "role")
    if session_id is None or session_id not in here.sessions:
        return Skip("of a conversation that is not here")
    kind = text_in(row, "kind", "message_kind")
    return {
        "id": uuid_in(row, "id"),
        "chat_session_id": session_id,
        "role": role if role in {"user", "assistant"} else "system",
        "kind": kind if kind == "channel_command" else "text",
        "content": text_in(row, "content"),
        "author_user_id": here.speakers.get(session_id) if role == "user" else None,
        "created_at": row.get("created_at"),
    }


# --- installations and their secrets ----------------------------------------------------------------------------------


def sealed_secrets(row: Row) -> dict[str, Any]:
    """Return the sealed secrets of an installation, by the key that they have in our config."""
    held = {**_config_of(row), **{name: value for name, value in row.items() if name.endswith(_SEALED_SUFFIX)}}
    return {name: value for name, value in held.items() if name.endswith(_SEALED_SUFFIX) and _says(value)}


def installation(row: Row, secrets: Mapping[str, str], ring: KeyRing, here: Standing) -> Record | Skip:
    """Translate an installation. Its opened `secrets` are sealed anew by `ring`. Its lease is not imported."""
    id_, workspace_id, agent_id = (uuid_in(row, name) for name in ("id", "workspace_id", "agent_id"))
    config = _plain_config(row)
    if id_ is None or workspace_id is None or agent_id is None or (workspace_id, agent_id) not in here.agents:
        return Skip("of an agent or a workspace that is gone")
    if not config.get("app_id"):
        return Skip("it has no app id", named=True)
    if not secrets.get("app_secret_encrypted"):
        return Skip(f"app {config['app_id']} has no secret", named=True)
    return {
        "id": id_,
        "workspace_id": workspace_id,
        "agent_id": agent_id,
        "channel_type": CHANNEL_TYPE,
        "config": config | {name: ring.seal_text(value, owner=id_) for name, value in secrets.items()},
        "status": "revoked" if text_in(row, "status") == "revoked" else "active",
        "installer_user_id": here.user(row, "installer_user_id"),
        "installed_at": text_in(row, "installed_at", "created_at") or None,
        "created_at": row.get("created_at"),
        "updated_at": row.get("updated_at"),
    }


def _plain_config(row: Row) -> Record:
    """Return an installation's config without its secrets.

    The later tables hold it as JSON. For the older tables it is collected from their columns.
    """
    columns = ("app_id", "tenant_key", "bot_open_id", "bot_union_id", "region")
    said = _config_of(row) if "config" in row else {name: row.get(name) for name in columns}
    config = {name: value for name, value in said.items() if _says(value) and not name.endswith(_SEALED_SUFFIX)}
    return config | {"region": config["region"] if config.get("region") in REGIONS else REGIONS[0]}


# --- rows that belong to an installation ------------------------------------------------------------------------------


def user_binding(row: Row, here: Standing) -> Record | Skip:
    installation_id = uuid_in(row, "installation_id")
    workspace_id = here.installations.get(installation_id) if installation_id else None
    user_id = here.user(row, "multica_user_id", "user_id")
    account = text_in(row, "channel_user_id", "lark_open_id")
    if workspace_id is None:
        return foreign_type(row) or Skip("of a bot that is not here")
    if user_id is None or (workspace_id, user_id) not in here.members:
        return Skip("of somebody who is not a member of the bot's workspace")
    if not account:
        return Skip("it names no account")
    config = {name: value for name, value in _config_of(row).items() if _says(value)}
    if "config" not in row and (union_id := text_in(row, "union_id", "lark_union_id")):
        config["union_id"] = union_id
    return {
        "id": id_of(row),
        "workspace_id": workspace_id,
        "user_id": user_id,
        "installation_id": installation_id,
        "channel_type": CHANNEL_TYPE,
        "channel_user_id": account,
        "config": config,
        "bound_at": text_in(row, "bound_at", "created_at") or None,
    }


def chat_session_binding(row: Row, here: Standing) -> Record | Skip:
    installation_id, session_id = uuid_in(row, "installation_id"), uuid_in(row, "chat_session_id")
    workspace_id = here.installations.get(installation_id) if installation_id else None
    chat_id = text_in(row, "channel_chat_id", "lark_chat_id")
    if workspace_id is None:
        return foreign_type(row) or Skip("of a bot that is not here")
    if session_id not in here.sessions:
        return Skip("of a conversation that is not here")
    if not chat_id:
        return Skip("it names no chat")
    return {
        "id": id_of(row),
        "workspace_id": workspace_id,
        "chat_session_id": session_id,
        "installation_id": installation_id,
        "channel_type": CHANNEL_TYPE,
        "channel_chat_id": chat_id,
        "chat_type": "p2p" if text_in(row, "chat_type") == "p2p" else "group",
        "last_message_id": text_in(row, "last_message_id", "last_lark_message_id") or None,
        "last_thread_id": text_in(row, "last_thread_id", "last_lark_thread_id") or None,
        "config": {name: value for name, value in _config_of(row).items() if _says(value)},
        "created_at": row.get("created_at"),
    }


def inbound_message_dedup(row: Row, here: Standing) -> Record | Skip:
    installation_id, message_id = uuid_in(row, "installation_id"), text_in(row, "message_id", "lark_message_id")
    if installation_id not in here.installations or not message_id:
        return Skip("of a bot that is not here")
    return {
        "installation_id": installation_id,
        "message_id": message_id,
        "received_at": row.get("received_at"),
        "processed_at": row.get("processed_at"),
        "claim_token": uuid_in(row, "claim_token"),
    }


def inbound_audit(row: Row, here: Standing) -> Record | Skip:
    installation_id, reason = uuid_in(row, "installation_id"), text_in(row, "drop_reason")
    if (foreign := foreign_type(row)) is not None:
        return foreign
    if installation_id is not None and installation_id not in here.installations:
        return Skip("of a bot that is not here")
    if reason not in _DROP_REASONS:
        return Skip("its reason has no word here")
    return {
        "id": id_of(row),
        "installation_id": installation_id,
        "channel_type": CHANNEL_TYPE,
        "channel_chat_id": text_in(row, "channel_chat_id", "lark_chat_id"),
        "event_type": text_in(row, "event_type"),
        "channel_event_id": text_in(row, "channel_event_id", "lark_event_id"),
        "channel_message_id": text_in(row, "channel_message_id", "lark_message_id"),
        "drop_reason": reason,
        "received_at": row.get("received_at"),
    }


def outbound_card_message(row: Row, here: Standing) -> Record | Skip:
    session_id, status = uuid_in(row, "chat_session_id"), text_in(row, "status")
    if (foreign := foreign_type(row)) is not None:
        return foreign
    if session_id not in here.sessions:
        return Skip("of a conversation that is not here")
    if status not in _CARD_STATES:
        return Skip("its status has no word here")
    return {
        "id": id_of(row),
        "chat_session_id": session_id,
        "task_id": uuid_in(row, "task_id"),
        "channel_type": CHANNEL_TYPE,
        "channel_chat_id": text_in(row, "channel_chat_id", "lark_chat_id"),
        "channel_card_message_id": text_in(row, "channel_card_message_id", "lark_card_message_id"),
        "status": status,
        "last_patched_at": row.get("last_patched_at"),
        "created_at": row.get("created_at"),
    }


def binding_token(row: Row, here: Standing) -> Record | Skip:
    """Translate the token of a binding link. Only its hash was ever stored.

    The hash is made the same way here, so a link that was sent before the import still works.
    """
    installation_id, token_hash = uuid_in(row, "installation_id"), text_in(row, "token_hash")
    workspace_id = here.installations.get(installation_id) if installation_id else None
    if workspace_id is None:
        return foreign_type(row) or Skip("of a bot that is not here")
    if not _TOKEN_HASH.fullmatch(token_hash) or not row.get("expires_at"):
        return Skip("it is no token of 15 minutes")
    return {
        "token_hash": token_hash,
        "workspace_id": workspace_id,
        "installation_id": installation_id,
        "channel_type": CHANNEL_TYPE,
        "channel_user_id": text_in(row, "channel_user_id", "lark_open_id"),
        "created_at": row.get("created_at"),
        "expires_at": row["expires_at"],
        "consumed_at": row.get("consumed_at"),
    }
