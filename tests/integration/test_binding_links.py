"""A link to bind with, from the prompt that carries it to the binding, and everybody who should not get one."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from gateway.errors import Conflict, DomainError, Forbidden, Gone, Invalid, NotFound
from gateway.postgres.binding_store import PostgresBindingStore
from gateway.postgres.directory_store import PostgresDirectoryStore
from gateway.postgres.pool import Pool
from gateway.work.people.binding_prompts import BindingPrompts
from gateway.work.people.bindings import BindingService
from support.lark_directory import Place, add_installation, add_member, add_person, add_place

URL = "https://gateway.example"


class Scene:
    """A bot, its workspace's owner, and what a stranger to it goes through."""

    def __init__(self, pool: Pool, place: Place, installation_id: UUID) -> None:
        self.pool = pool
        self.place = place
        self.installation_id = installation_id
        self.store = PostgresBindingStore(pool)
        self.bindings = BindingService(self.store)

    async def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        async with self.pool.connection() as conn:
            cursor = await conn.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []

    async def member(self, email: str) -> UUID:
        user_id = await add_person(self.pool, email)
        await add_member(self.pool, self.place.workspace_id, user_id)
        return user_id

    async def token(self, account: str = "ou_eve") -> str:
        text = await BindingPrompts(self.store, public_url=URL).compose(self.installation_id, account)
        found = re.search(r"https://gateway\.example/lark/bind\?token=([\w-]+)$", text or "")
        assert found
        return found[1]

    async def answer(self, token: str, user_id: UUID) -> type[DomainError] | None:
        """Redeem a link, and return the sort of error that came of it; None without one."""
        try:
            await self.bindings.redeem(token, user_id)
        except DomainError as refusal:
            return type(refusal)
        return None


@pytest.fixture
async def scene(pool: Pool) -> Scene:
    place = await add_place(pool)
    return Scene(pool, place, await add_installation(pool, place))


async def test_prompt_stores_the_hash_of_its_token_and_nothing_else(scene: Scene) -> None:
    token = await scene.token()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    rows = await scene.sql(
        "select token_hash, workspace_id, installation_id, channel_user_id, expires_at - created_at = '15 min',"
        " consumed_at, to_jsonb(t)::text from channel_binding_token t"
    )
    hashed = hashlib.sha256(token.encode()).hexdigest()
    assert rows[0][:-1] == (hashed, scene.place.workspace_id, scene.installation_id, "ou_eve", True, None)
    assert token not in rows[0][-1]


async def test_prompt_that_is_sent_again_has_another_token_and_the_first_stays_good(scene: Scene) -> None:
    first, second = await scene.token(), await scene.token()
    assert first != second
    assert await scene.answer(first, scene.place.owner_id) is None


@pytest.mark.parametrize(("language", "word"), [("en", "sign in"), ("zh-Hans", "登录")])
async def test_prompt_speaks_the_language_of_the_workspace(scene: Scene, language: str, word: str) -> None:
    await scene.sql("update workspace set language = %s", language)
    text = await BindingPrompts(scene.store, public_url=URL).compose(scene.installation_id, "ou_eve")
    assert word in (text or "")


@pytest.mark.parametrize("language", ["en", "zh-Hans"])
async def test_prompt_without_a_public_url_names_the_operators_command(scene: Scene, language: str) -> None:
    await scene.sql("update workspace set language = %s", language)
    text = await BindingPrompts(scene.store, public_url=None).compose(scene.installation_id, "ou_eve")
    assert f"gateway lark bind {scene.installation_id} ou_eve EMAIL" in (text or "")
    assert await scene.sql("select * from channel_binding_token") == []


async def test_nobody_is_asked_who_is_bound_by_now_or_whose_bot_is_out_of_service(scene: Scene) -> None:
    prompts = BindingPrompts(scene.store, public_url=URL)
    await scene.bindings.bind(scene.installation_id, "ou_ann", scene.place.owner_email)
    assert await prompts.compose(scene.installation_id, "ou_ann") is None
    await scene.sql("update channel_installation set status = 'revoked'")
    assert await prompts.compose(scene.installation_id, "ou_eve") is None
    assert await scene.sql("select * from channel_binding_token") == []


async def test_redeemed_link_binds_the_account_it_was_sent_to(scene: Scene) -> None:
    binding = await scene.bindings.redeem(await scene.token(), scene.place.owner_id)
    assert (binding.workspace_id, binding.installation_id) == (scene.place.workspace_id, scene.installation_id)
    assert (binding.user_id, binding.channel_user_id) == (scene.place.owner_id, "ou_eve")
    assert await scene.bindings.list(scene.installation_id) == [binding]
    assert await scene.sql("select consumed_at is not null from channel_binding_token") == [(True,)]


async def test_used_unknown_and_malformed_links_are_equally_over(scene: Scene) -> None:
    token = await scene.token()
    await scene.bindings.redeem(token, scene.place.owner_id)
    refusals = set()
    for dead in (token, "A" * 43, "short", "x" * 5000, "ü" * 43, "\0" * 43):
        with pytest.raises(Gone) as raised:
            await scene.bindings.redeem(dead, scene.place.owner_id)
        refusals.add((raised.value.code, str(raised.value)))
    assert len(refusals) == 1


@pytest.mark.parametrize("blank", ["", "   "])
async def test_blank_token_is_a_bad_request(scene: Scene, blank: str) -> None:
    assert await scene.answer(blank, scene.place.owner_id) is Invalid


async def test_link_is_over_after_fifteen_minutes_by_the_clock_of_the_database(scene: Scene) -> None:
    age = "update channel_binding_token set created_at = now() - '15 min'::interval + %s, expires_at = now() + %s"
    late, early = await scene.token("ou_1"), await scene.token("ou_2")
    await scene.sql(age, timedelta(seconds=10), timedelta(seconds=10))
    assert await scene.answer(early, scene.place.owner_id) is None
    await scene.sql(age, timedelta(0), timedelta(0))
    assert await scene.answer(late, scene.place.owner_id) is Gone


async def test_stolen_link_is_refused_to_a_stranger_and_still_good_for_a_member(scene: Scene) -> None:
    token = await scene.token()
    thief = await add_person(scene.pool, "thief@else.example")
    elsewhere = await add_place(scene.pool, "other")
    await add_member(scene.pool, elsewhere.workspace_id, thief, "owner")
    assert await scene.answer(token, thief) is Forbidden
    assert await scene.bindings.list(scene.installation_id) == []
    assert await scene.answer(token, scene.place.owner_id) is None


async def test_second_link_of_a_bound_person_is_fine_for_them_and_a_conflict_for_others(scene: Scene) -> None:
    first, second, third = [await scene.token() for _ in range(3)]
    bob = await scene.member("bob@acme.example")
    before = await scene.bindings.redeem(first, scene.place.owner_id)
    assert await scene.bindings.redeem(second, scene.place.owner_id) == before
    assert await scene.answer(third, bob) is Conflict
    assert await scene.answer(third, scene.place.owner_id) is None


async def test_removed_member_cannot_bind_again_with_a_link_they_kept(scene: Scene) -> None:
    bob = await scene.member("bob@acme.example")
    first, kept = await scene.token(), await scene.token()
    assert await scene.answer(first, bob) is None
    await PostgresDirectoryStore(scene.pool).remove_member(scene.place.workspace_id, bob)
    assert await scene.bindings.list(scene.installation_id) == []
    assert await scene.answer(kept, bob) is Forbidden


async def test_link_of_a_bot_out_of_service_is_over(scene: Scene) -> None:
    token = await scene.token()
    await scene.sql("update channel_installation set status = 'revoked'")
    assert await scene.answer(token, scene.place.owner_id) is Gone


async def test_one_link_used_many_times_at_once_binds_once(scene: Scene) -> None:
    token = await scene.token()
    people = [await scene.member(f"p{number}@acme.example") for number in range(6)]
    answers: list[type[DomainError] | None] = []

    async def redeem(person: UUID) -> None:
        answers.append(await scene.answer(token, person))

    async with trio.open_nursery() as nursery:
        for person in people:
            nursery.start_soon(redeem, person)
    assert Counter(answers) == {None: 1, Gone: 5}
    assert len(await scene.bindings.list(scene.installation_id)) == 1


async def test_link_whose_first_redeemer_is_refused_at_the_same_moment_serves_the_second(scene: Scene) -> None:
    token = await scene.token()
    thief = await add_person(scene.pool, "thief@else.example")
    answers: dict[UUID, type[DomainError] | None] = {}

    async def redeem(person: UUID) -> None:
        answers[person] = await scene.answer(token, person)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(redeem, thief)
        nursery.start_soon(redeem, scene.place.owner_id)
    assert answers[scene.place.owner_id] is None
    assert answers[thief] in {Forbidden, Gone}


async def test_people_of_a_bot_are_listed_and_unbound_within_their_workspace(scene: Scene) -> None:
    binding = await scene.bindings.redeem(await scene.token(), scene.place.owner_id)
    workspace = scene.place.workspace_id
    (person,) = await scene.bindings.people(workspace, scene.installation_id)
    assert (person.id, person.email, person.channel_user_id) == (binding.id, scene.place.owner_email, "ou_eve")
    for wrong in ((uuid4(), scene.installation_id, binding.id), (workspace, uuid4(), binding.id)):
        with pytest.raises(NotFound):
            await scene.bindings.delete(*wrong)
    with pytest.raises(NotFound):
        await scene.bindings.people(uuid4(), scene.installation_id)
    await scene.bindings.delete(workspace, scene.installation_id, binding.id)
    assert await scene.bindings.people(workspace, scene.installation_id) == []
