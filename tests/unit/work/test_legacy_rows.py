import base64
import secrets
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.keyring import KeyRing, UnreadableSecret
from gateway.legacy import rows
from gateway.legacy.rows import LegacyKey, LegacyKeyRefused, LegacyRecord, PlacedRows, SkippedRow

KEY = b"\x05" * 32
RING = KeyRing([b"\x07" * 32])
WORKSPACE, AGENT, BOT, PERSON, OURS, SESSION = (UUID(int=number) for number in range(1, 7))
SECRETS = {"app_secret_encrypted": "fake-secret"}


@pytest.fixture
def here() -> PlacedRows:
    return PlacedRows(
        workspaces={WORKSPACE},
        users={PERSON: OURS},
        members={(WORKSPACE, OURS)},
        agents={(WORKSPACE, AGENT)},
        installations={BOT: WORKSPACE},
        sessions={SESSION},
        speakers={SESSION: OURS},
    )


def seal(plaintext: bytes, associated: bytes | None = None) -> bytes:
    nonce = secrets.token_bytes(12)
    return nonce + AESGCM(KEY).encrypt(nonce, plaintext, associated)


def made(result: LegacyRecord | SkippedRow) -> LegacyRecord:
    assert isinstance(result, dict), result
    return result


def old_key() -> LegacyKey:
    return LegacyKey(base64.b64encode(KEY).decode())


def test_key_opens_bytes_and_base64_however_it_was_broken_into_lines() -> None:
    sealed = seal(b"fake-secret")
    for shown in ("\\x" + sealed.hex(), base64.b64encode(sealed).decode(), base64.encodebytes(sealed).decode()):
        assert old_key().open(shown) == "fake-secret"


@pytest.mark.parametrize(
    "sealed",
    ["", "x", "\\xzz", "\\x00", "?" * 40, base64.b64encode(b"\x00" * 40).decode(), "\\x" + seal(b"a", b"row").hex()],
    ids=["empty", "letter", "no hex", "short", "no base64", "zeros", "other context"],
)
def test_key_finds_anything_else_unreadable(sealed: str) -> None:
    with pytest.raises(UnreadableSecret):
        old_key().open(sealed)


def test_key_finds_a_secret_that_is_no_text_unreadable() -> None:
    with pytest.raises(UnreadableSecret):
        old_key().open("\\x" + seal(b"\xff").hex())


@pytest.mark.parametrize("text", ["", "fake", base64.b64encode(b"x" * 16).decode(), "ключ"])
def test_key_that_is_none_is_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(LegacyKeyRefused) as refused:
        LegacyKey(text)
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "slug", "prefix"),
    [
        ({"name": "Acme", "slug": "acme", "issue_prefix": "ACM"}, "acme", "ACM"),
        ({"name": "Acme Inc.", "slug": "Acme_Inc", "issue_prefix": ""}, "acme-inc", "ACM"),
        ({"name": "北京", "slug": "", "issue_prefix": "1"}, "workspace", "WS"),
        ({"name": "Docs", "slug": "docs", "issue_prefix": "doc"}, "docs-00000000", "DOC"),
    ],
)
def test_workspace_has_a_slug_and_a_prefix_that_can_be_stored(given: dict[str, Any], slug: str, prefix: str) -> None:
    record = rows.workspace({"id": str(WORKSPACE), **given})
    assert (record["slug"], record["issue_prefix"], record["settings"], record["issue_counter"]) == (
        slug,
        prefix,
        {},
        0,
    )


@pytest.mark.parametrize("email", [None, "", "nobody", "@x"])
def test_person_without_an_address_stays_behind(email: str | None) -> None:
    assert isinstance(rows.user({"id": str(PERSON), "email": email}), SkippedRow)


@pytest.mark.parametrize(
    ("role", "kept"), [("owner", "owner"), ("admin", "admin"), ("emperor", "member"), (None, "member")]
)
def test_member_has_a_role_we_know(here: PlacedRows, role: str | None, kept: str) -> None:
    row = {"workspace_id": str(WORKSPACE), "user_id": str(PERSON), "role": role}
    record = made(rows.member(row, here))
    assert (record["user_id"], record["role"]) == (OURS, kept)


def test_agent_of_unknown_visibility_is_private(here: PlacedRows) -> None:
    row = {"id": str(AGENT), "workspace_id": str(WORKSPACE), "name": "", "max_concurrent_tasks": 0}
    assert made(rows.agent(row | {"visibility": "team"}, here))["visibility"] == "private"
    plain = made(rows.agent(row, here))
    assert (plain["name"], plain["visibility"], plain["max_concurrent_tasks"]) == ("Agent", "workspace", 6)


def bot(**more: Any) -> dict[str, Any]:
    return {"id": str(BOT), "workspace_id": str(WORKSPACE), "agent_id": str(AGENT), "status": "active", **more}


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            {"app_id": "cli_1", "region": None, "tenant_key": "", "bot_union_id": None},
            {"app_id": "cli_1", "region": "feishu"},
        ),
        (
            {"app_id": "cli_1", "region": "lark", "bot_union_id": "on"},
            {"app_id": "cli_1", "region": "lark", "bot_union_id": "on"},
        ),
        ({"app_id": "cli_1", "region": "mars"}, {"app_id": "cli_1", "region": "feishu"}),
    ],
)
def test_installation_of_either_generation_has_the_same_config(
    here: PlacedRows, said: dict[str, Any], kept: dict[str, Any]
) -> None:
    for row in (bot(**said), bot(config=said | {"app_secret_encrypted": "xx", "extra": [], "other": {}})):
        config = made(rows.installation(row, SECRETS, RING, here))["config"]
        assert RING.open_text(config.pop("app_secret_encrypted"), owner=BOT) == "fake-secret"
        assert config == kept


def test_installation_keeps_secrets_and_settings_that_the_later_tables_added(here: PlacedRows) -> None:
    row = bot(
        config={"app_id": "cli_1", "allow_bots": True, "app_secret_encrypted": "a", "encrypt_key_encrypted": None}
    )
    assert rows.sealed_secrets(row) == {"app_secret_encrypted": "a"}
    assert made(rows.installation(row, SECRETS, RING, here))["config"]["allow_bots"] is True


def test_installation_that_cannot_serve_is_named(here: PlacedRows) -> None:
    for row, opened in ((bot(config={}), SECRETS), (bot(app_id="cli_1"), {})):
        skip = rows.installation(row, opened, RING, here)
        assert isinstance(skip, SkippedRow)
        assert skip.named
    orphan = rows.installation(bot(app_id="cli_1", agent_id=str(uuid4())), SECRETS, RING, here)
    assert orphan == SkippedRow("of an agent or a workspace that is gone")


def test_binding_of_a_foreign_workspace_is_of_the_bots_own(here: PlacedRows) -> None:
    row = {
        "id": str(uuid4()),
        "workspace_id": str(uuid4()),
        "installation_id": str(BOT),
        "multica_user_id": str(PERSON),
        "lark_open_id": "ou_1",
        "union_id": "on_1",
    }
    record = made(rows.user_binding(row, here))
    assert (record["workspace_id"], record["user_id"], record["config"]) == (WORKSPACE, OURS, {"union_id": "on_1"})
    here.members.clear()
    assert isinstance(rows.user_binding(row, here), SkippedRow)


def test_row_without_an_id_of_its_own_gets_the_same_one_every_time() -> None:
    row = {"id": 7, "event_type": "e", "received_at": "2026-01-01"}
    assert rows.id_of(row) == rows.id_of(dict(reversed(row.items())))
    assert rows.id_of(row) != rows.id_of(row | {"id": 8})


def test_archived_conversation_stays_archived(here: PlacedRows) -> None:
    row = {"id": str(SESSION), "workspace_id": str(WORKSPACE), "agent_id": str(AGENT), "updated_at": "2026-01-01"}
    assert made(rows.session(row | {"status": "archived"}, here))["archived_at"] == "2026-01-01"
    assert made(rows.session(row | {"status": "active"}, here))["archived_at"] is None


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ({"role": "user", "content": "x"}, ("user", "text", OURS)),
        ({"role": "assistant", "content": "x"}, ("assistant", "text", None)),
        ({"role": "tool", "content": None}, ("system", "text", None)),
        ({"role": "user", "content": "/issue x", "kind": "channel_command"}, ("user", "channel_command", OURS)),
    ],
)
def test_message_keeps_who_said_it(here: PlacedRows, row: dict[str, Any], kept: tuple[Any, ...]) -> None:
    record = made(rows.message({"id": str(uuid4()), "chat_session_id": str(SESSION), **row}, here))
    assert (record["role"], record["kind"], record["author_user_id"]) == kept
