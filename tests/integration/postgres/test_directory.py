"""People, workspaces, agents, runtimes and tokens in a real database."""

from __future__ import annotations

from uuid import UUID

import pytest
from argon2 import PasswordHasher

from gateway.errors import Conflict, DomainError, Invalid, NotFound
from gateway.ids import new_id, token_hash
from gateway.postgres.directory_store import PostgresDirectoryStore
from gateway.postgres.pool import Pool
from gateway.work.people.directory import AgentChange, Directory, RuntimePrincipal, User, UserPrincipal, Workspace


@pytest.fixture
def directory(pool: Pool) -> Directory:
    return Directory(PostgresDirectoryStore(pool))


@pytest.fixture
async def ada(directory: Directory) -> User:
    return await directory.add_user("ada@example.com", "Ada")


@pytest.fixture
async def acme(directory: Directory, ada: User) -> Workspace:
    return await directory.add_workspace("Acme", "ACM", ada)


async def value(pool: Pool, sql: str, *parameters: object) -> object:
    async with pool.connection() as conn:
        row = await (await conn.execute(sql, parameters)).fetchone()
    assert row is not None
    return row[0]


async def test_user_is_found_by_address_in_any_case(directory: Directory, ada: User) -> None:
    assert await directory.user(" ADA@Example.com ") == ada


async def test_user_password_is_kept_as_argon2_hash_only(directory: Directory, pool: Pool) -> None:
    user = await directory.add_user("bob@example.com", password="fake-password")
    stored = await value(pool, "select password_hash from app_user where id = %s", user.id)
    assert isinstance(stored, str)
    assert stored.startswith("$argon2id$")
    assert PasswordHasher().verify(stored, "fake-password")


async def test_user_without_password_has_none(directory: Directory, ada: User, pool: Pool) -> None:
    assert await value(pool, "select password_hash from app_user where id = %s", ada.id) is None


@pytest.mark.parametrize(
    ("email", "name", "password", "code"),
    [
        ("ADA@example.com", "", None, "duplicate_user"),
        ("no address", "", None, "invalid_email"),
        ("@example.com", "", None, "invalid_email"),
        ("x" * 250 + "@example.com", "", None, "invalid_email"),
        ("bob@example.com", "x" * 300, None, "invalid_name"),
        ("bob@example.com", "", "", "invalid_password"),
        ("bob@example.com", "", "x" * 2000, "invalid_password"),
    ],
)
async def test_bad_user_is_refused_in_words(
    directory: Directory, ada: User, email: str, name: str, password: str | None, code: str
) -> None:
    with pytest.raises(DomainError) as refusal:
        await directory.add_user(email, name, password)
    assert refusal.value.code == code


async def test_workspace_is_found_by_slug_and_id(directory: Directory, acme: Workspace) -> None:
    assert acme.slug == "acme"
    assert await directory.workspace("acme") == acme
    assert await directory.workspace(str(acme.id).upper()) == acme


async def test_workspaces_of_one_name_get_numbered_slugs(directory: Directory, ada: User, acme: Workspace) -> None:
    second = await directory.add_workspace("Acme", "ACM", ada, shared_prefix=True)
    third = await directory.add_workspace("acme!", "ACM", ada, shared_prefix=True)
    assert (second.slug, third.slug) == ("acme-2", "acme-3")


async def test_workspace_owner_is_its_first_member(
    directory: Directory, ada: User, acme: Workspace, pool: Pool
) -> None:
    sql = "select role from member where workspace_id = %s and user_id = %s"
    assert await value(pool, sql, acme.id, ada.id) == "owner"


@pytest.mark.parametrize("prefix", ["", "abc", "1AB", "A-B", "ABCDEFGHIJK", "ÄB"])
async def test_workspace_with_bad_prefix_is_refused(directory: Directory, ada: User, prefix: str) -> None:
    with pytest.raises(Invalid, match="prefix"):
        await directory.add_workspace("Acme", prefix, ada)


async def test_unknown_names_are_refused_in_words(directory: Directory) -> None:
    with pytest.raises(NotFound, match=r"nobody@example\.com"):
        await directory.user("nobody@example.com")
    with pytest.raises(NotFound, match="nowhere"):
        await directory.workspace("nowhere")
    with pytest.raises(NotFound, match="no agent"):
        await directory.agent(new_id())


async def test_member_is_added_once(directory: Directory, acme: Workspace) -> None:
    bob = await directory.add_user("bob@example.com", "Bob")
    member = await directory.add_member(acme, bob, "guest")
    assert (member.id, member.workspace_id, member.email, member.role) == (bob.id, acme.id, bob.email, "guest")
    with pytest.raises(Conflict, match="already"):
        await directory.add_member(acme, bob)


async def test_member_removal_takes_the_bindings_of_this_workspace_alone(
    directory: Directory, ada: User, acme: Workspace, pool: Pool
) -> None:
    bob = await directory.add_user("bob@example.com")
    other = await directory.add_workspace("Other", "OTH", ada)
    for place in (acme, other):
        await directory.add_member(place, bob)
        for person in (ada, bob):
            await bind(pool, place.id, person.id)
    await directory.remove_member(acme, bob)
    left = "select array_agg(workspace_id order by workspace_id) from channel_user_binding where user_id = %s"
    assert await value(pool, left, bob.id) == [other.id]
    assert sorted(await value(pool, left, ada.id)) == sorted([acme.id, other.id])  # type: ignore[call-overload]
    assert await value(pool, "select count(*) from member where user_id = %s", bob.id) == 1
    with pytest.raises(NotFound, match="not a member"):
        await directory.remove_member(acme, bob)


async def bind(pool: Pool, workspace_id: UUID, user_id: UUID) -> None:
    async with pool.connection() as conn:
        await conn.execute(
            "insert into channel_user_binding"
            " (id, workspace_id, user_id, installation_id, channel_type, channel_user_id)"
            " values (%s, %s, %s, %s, 'feishu', 'ou_x')",
            (new_id(), workspace_id, user_id, new_id()),
        )


async def test_agent_belongs_to_the_workspace_owner_unless_said(
    directory: Directory, ada: User, acme: Workspace
) -> None:
    agent = await directory.add_agent(acme, "Helper")
    assert (agent.workspace_id, agent.owner_id, agent.runtime_id) == (acme.id, ada.id, None)
    assert (agent.visibility, agent.archived_at) == ("workspace", None)
    bob = await directory.add_user("bob@example.com")
    with pytest.raises(NotFound, match="not a member"):
        await directory.add_agent(acme, "Second", owner=bob)
    await directory.add_member(acme, bob)
    private = await directory.add_agent(acme, "Second", owner=bob, private=True)
    assert (private.owner_id, private.visibility) == (bob.id, "private")


async def test_agent_name_is_taken_once_per_workspace(directory: Directory, ada: User, acme: Workspace) -> None:
    await directory.add_agent(acme, "Helper")
    with pytest.raises(Conflict, match="Helper exists in acme"):
        await directory.add_agent(acme, "Helper")
    await directory.add_agent(await directory.add_workspace("Other", "OTH", ada), "Helper")


async def test_agent_takes_only_a_runtime_of_its_workspace(directory: Directory, ada: User, acme: Workspace) -> None:
    other = await directory.add_workspace("Other", "OTH", ada)
    mine, _ = await directory.add_runtime(acme, "box")
    theirs, _ = await directory.add_runtime(other, "box")
    agent = await directory.add_agent(acme, "Helper", runtime_id=mine.id)
    assert agent.runtime_id == mine.id
    for attempt in (
        directory.add_agent(acme, "Second", runtime_id=theirs.id),
        directory.set_agent(agent, AgentChange(sets_runtime=True, runtime_id=theirs.id)),
    ):
        with pytest.raises(NotFound, match="no runtime of this workspace"):
            await attempt


async def test_agent_is_archived_once_and_brought_back(directory: Directory, acme: Workspace) -> None:
    agent = await directory.add_agent(acme, "Helper")
    archived = await directory.set_agent(agent, AgentChange(archived=True))
    assert archived.archived_at is not None
    again = await directory.set_agent(archived, AgentChange(archived=True))
    assert again.archived_at == archived.archived_at
    back = await directory.set_agent(again, AgentChange(archived=False))
    assert back == agent


async def test_token_of_a_person_identifies_them(directory: Directory, ada: User, pool: Pool) -> None:
    token, secret = await directory.add_user_token(ada, "laptop")
    assert secret.startswith("gwu_")
    assert (token.user_id, token.name) == (ada.id, "laptop")
    assert await directory.authenticate(secret) == UserPrincipal(ada.id)
    assert await value(pool, "select token_hash from api_token") == token_hash(secret)


async def test_token_of_a_runtime_identifies_it_with_its_workspace(directory: Directory, acme: Workspace) -> None:
    runtime, secret = await directory.add_runtime(acme, "box")
    assert secret.startswith("gwr_")
    assert await directory.authenticate(secret) == RuntimePrincipal(runtime.id, acme.id)
    with pytest.raises(Conflict, match="box exists"):
        await directory.add_runtime(acme, "box")


async def test_token_that_is_revoked_or_not_ours_identifies_nobody(directory: Directory, ada: User, pool: Pool) -> None:
    token, secret = await directory.add_user_token(ada)
    for wrong in ("", "gwu_", secret[:-1], secret + "x", secret.upper(), "gwr_" + secret[4:], "gwu_" + "x" * 10_000):
        assert await directory.authenticate(wrong) is None
    async with pool.connection() as conn:
        await conn.execute("update api_token set revoked_at = now() where id = %s", (token.id,))
    assert await directory.authenticate(secret) is None


async def test_token_use_is_noted_at_most_every_minute(directory: Directory, ada: User, pool: Pool) -> None:
    _, secret = await directory.add_user_token(ada)
    last_used = "select last_used_at from api_token"
    assert await value(pool, last_used) is None
    await directory.authenticate(secret)
    first = await value(pool, last_used)
    assert first is not None
    await directory.authenticate(secret)
    assert await value(pool, last_used) == first
    async with pool.connection() as conn:
        await conn.execute("update api_token set last_used_at = now() - interval '61 seconds'")
    await directory.authenticate(secret)
    assert await value(pool, last_used) > first  # type: ignore[operator]


async def test_prefix_is_shared_only_on_purpose(directory: Directory, ada: User, acme: Workspace) -> None:
    with pytest.raises(Conflict) as caught:
        await directory.add_workspace("Other", "ACM", ada)
    assert caught.value.code == "duplicate_prefix"
    assert "--shared-prefix" in str(caught.value)
    assert (await directory.add_workspace("Other", "ACM", ada, shared_prefix=True)).slug == "other"


@pytest.mark.parametrize(
    ("slug", "code"),
    [("api", "invalid_slug"), ("setup", "invalid_slug"), ("Acme", "invalid_slug"), ("a--b", "invalid_slug"),
     ("-a", "invalid_slug"), ("", "invalid_slug"), ("a/b", "invalid_slug"), ("x" * 49, "invalid_slug"),
     ("acme", "duplicate_slug")],
)  # fmt: skip
async def test_slug_that_cannot_be_an_address_is_refused(
    directory: Directory, ada: User, acme: Workspace, slug: str, code: str
) -> None:
    with pytest.raises((Invalid, Conflict)) as caught:
        await directory.add_workspace("Other", "OTH", ada, slug=slug)
    assert (caught.value.code, caught.value.extra["field"]) == (code, "slug")


async def test_slug_may_be_given(directory: Directory, ada: User) -> None:
    assert (await directory.add_workspace("研发部", "RND", ada, slug="rnd-1")).slug == "rnd-1"
