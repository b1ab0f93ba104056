from collections import Counter
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from gateway.errors import Conflict, DomainError, Forbidden, Invalid, NotFound
from gateway.ids import new_id
from gateway.postgres.binding_store import PostgresBindingStore, bind_member, unbind_member
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.work.people.bindings import Binding, BindingService
from support.lark_directory import Place, add_installation, add_member, add_person, add_place


@pytest.fixture
async def place(pool: Pool) -> Place:
    return await add_place(pool)


@pytest.fixture
async def installation_id(pool: Pool, place: Place) -> UUID:
    return await add_installation(pool, place)


@pytest.fixture
def bindings(pool: Pool) -> BindingService:
    return BindingService(PostgresBindingStore(pool))


async def test_bind_of_a_member_stores_who_the_account_is(
    bindings: BindingService, place: Place, installation_id: UUID
) -> None:
    binding = await bindings.bind(installation_id, "ou_1", place.owner_email.upper())
    assert (binding.installation_id, binding.user_id) == (installation_id, place.owner_id)
    assert (binding.workspace_id, binding.channel_user_id) == (place.workspace_id, "ou_1")
    assert await bindings.list(installation_id) == [binding]


async def test_bind_of_the_same_pair_again_is_the_same_binding_with_a_new_time(
    bindings: BindingService, place: Place, installation_id: UUID
) -> None:
    first = await bindings.bind(installation_id, "ou_1", place.owner_email)
    again = await bindings.bind(installation_id, "ou_1", place.owner_email)
    assert again.bound_at > first.bound_at
    assert replace(again, bound_at=first.bound_at) == first
    assert await bindings.list(installation_id) == [again]


async def test_redemption_for_the_same_person_again_renews_the_time(
    pool: Pool, place: Place, installation_id: UUID
) -> None:
    bound = []
    for _ in range(2):
        async with pool.transaction() as conn:
            bound.append(
                await bind_member(
                    conn,
                    binding_id=new_id(),
                    workspace_id=place.workspace_id,
                    installation_id=installation_id,
                    channel_user_id="ou_1",
                    user_id=place.owner_id,
                )
            )
    first, again = bound
    assert isinstance(first, Binding)
    assert isinstance(again, Binding)
    assert again.bound_at > first.bound_at
    assert replace(again, bound_at=first.bound_at) == first


async def test_list_has_the_accounts_bound_last_first(
    bindings: BindingService, place: Place, installation_id: UUID
) -> None:
    for account in ("ou_1", "ou_2", "ou_3", "ou_2"):
        await bindings.bind(installation_id, account, place.owner_email)
    assert [each.channel_user_id for each in await bindings.list(installation_id)] == ["ou_2", "ou_3", "ou_1"]
    people = await bindings.people(place.workspace_id, installation_id)
    assert [each.channel_user_id for each in people] == ["ou_2", "ou_3", "ou_1"]


async def test_bind_of_somebody_elses_account_is_a_conflict(
    bindings: BindingService, pool: Pool, place: Place, installation_id: UUID
) -> None:
    other = await add_person(pool, "eve@acme.example")
    await add_member(pool, place.workspace_id, other)
    first = await bindings.bind(installation_id, "ou_1", place.owner_email)
    with pytest.raises(Conflict) as raised:
        await bindings.bind(installation_id, "ou_1", "eve@acme.example")
    assert raised.value.code == "already_bound"
    assert await bindings.list(installation_id) == [first]


async def test_bind_race_for_one_account_has_one_winner(
    bindings: BindingService, pool: Pool, place: Place, installation_id: UUID
) -> None:
    emails = [f"p{n}@acme.example" for n in range(6)]
    for email in emails:
        await add_member(pool, place.workspace_id, await add_person(pool, email))
    outcomes: list[type[DomainError] | None] = []

    async def bind(email: str) -> None:
        try:
            await bindings.bind(installation_id, "ou_1", email)
            outcomes.append(None)
        except DomainError as refusal:
            outcomes.append(type(refusal))

    async with trio.open_nursery() as nursery:
        for email in emails:
            nursery.start_soon(bind, email)
    assert Counter(outcomes) == {None: 1, Conflict: 5}
    assert len(await bindings.list(installation_id)) == 1


async def test_bind_says_which_part_is_missing(
    bindings: BindingService, pool: Pool, place: Place, installation_id: UUID
) -> None:
    await add_person(pool, "stranger@else.example")
    for installation, email, refused in (
        (uuid4(), place.owner_email, (NotFound, "installation_not_found")),
        (installation_id, "nobody@acme.example", (NotFound, "user_not_found")),
        (installation_id, "stranger@else.example", (Forbidden, "not_a_member")),
    ):
        with pytest.raises(DomainError) as raised:
            await bindings.bind(installation, "ou_1", email)
        assert (type(raised.value), raised.value.code) == refused
    assert await bindings.list(installation_id) == []


@pytest.mark.parametrize("account", ["", "a\nb", "x" * 129, "\x00"])
async def test_bind_of_a_bad_account_id_is_rejected(
    bindings: BindingService, place: Place, installation_id: UUID, account: str
) -> None:
    with pytest.raises(Invalid):
        await bindings.bind(installation_id, account, place.owner_email)


async def test_unbind_frees_the_account(bindings: BindingService, place: Place, installation_id: UUID) -> None:
    await bindings.bind(installation_id, "ou_1", place.owner_email)
    await bindings.unbind(installation_id, "ou_1")
    assert await bindings.list(installation_id) == []
    with pytest.raises(NotFound):
        await bindings.unbind(installation_id, "ou_1")


async def test_member_removal_deletes_the_bindings_of_that_workspace_only(
    bindings: BindingService, pool: Pool, place: Place, installation_id: UUID
) -> None:
    elsewhere = await add_place(pool, "other")
    await add_member(pool, elsewhere.workspace_id, place.owner_id)
    other_installation = await add_installation(pool, elsewhere, "cli_fedcba9876543210")
    await bindings.bind(installation_id, "ou_1", place.owner_email)
    kept = await bindings.bind(other_installation, "ou_1", place.owner_email)
    async with pool.transaction() as conn:
        await unbind_member(conn, place.workspace_id, place.owner_id)
    assert await bindings.list(installation_id) == []
    assert await bindings.list(other_installation) == [kept]


async def test_bind_that_waits_for_a_member_removal_does_not_survive_it(
    bindings: BindingService, pool: Pool, place: Place, installation_id: UUID
) -> None:
    refused: list[str] = []

    async def bind() -> None:
        with pytest.raises(DomainError) as raised:
            await bindings.bind(installation_id, "ou_1", place.owner_email)
        refused.append(raised.value.code)

    async with trio.open_nursery() as nursery:
        async with pool.transaction() as conn:
            await conn.execute("delete from member where user_id = %s", (place.owner_id,))
            nursery.start_soon(bind)
            await _somebody_waits_for_a_lock(conn)
            await unbind_member(conn, place.workspace_id, place.owner_id)
    assert refused == ["not_a_member"]
    assert await bindings.list(installation_id) == []


async def test_create_merges_what_the_platform_says_of_an_account(
    pool: Pool, place: Place, installation_id: UUID
) -> None:
    store = PostgresBindingStore(pool)
    first = await store.create(new_id(), installation_id, "ou_1", place.owner_email)
    async with pool.connection() as conn:
        await conn.execute("""update channel_user_binding set config = '{"union_id": "on_1"}'""")
    again = await store.create(new_id(), installation_id, "ou_1", place.owner_email)
    assert first is not None
    assert again is not None
    assert again.id == first.id
    async with pool.connection() as conn:
        row = await (await conn.execute("select config from channel_user_binding")).fetchone()
    assert row == ({"union_id": "on_1"},)


async def _somebody_waits_for_a_lock(conn: TrioConnection[Any]) -> None:
    with trio.fail_after(10):
        while True:
            row = await (await conn.execute("select count(*) from pg_locks where not granted")).fetchone()
            if row != (0,):
                return
