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
from support.rows import query

URL = "https://gateway.example"


class BindingLinks:
    """A bot, its workspace's owner, and what a stranger to it goes through."""

    def __init__(self, pool: Pool, place: Place, installation_id: UUID) -> None:
        self.pool = pool
        self.place = place
        self.installation_id = installation_id
        self.store = PostgresBindingStore(pool)
        self.bindings = BindingService(self.store)

    async def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await query(self.pool, statement, *values)

    async def member(self, email: str) -> UUID:
        user_id = await add_person(self.pool, email)
        await add_member(self.pool, self.place.workspace_id, user_id)
        return user_id

    async def token(self, account: str = "ou_eve") -> str:
        question = await BindingPrompts(self.store, public_url=URL).compose(self.installation_id, account)
        assert question is not None
        found = re.search(r"https://gateway\.example/lark/bind\?token=([\w-]+)$", question.text)
        assert found
        assert question.button is not None
        assert question.button.url == found[0]
        assert found[1] not in repr(question)
        return found[1]

    async def answer(self, token: str, user_id: UUID) -> type[DomainError] | None:
        """Redeem a link, and return the sort of error that came of it; None without one."""
        try:
            await self.bindings.redeem(token, user_id)
        except DomainError as refusal:
            return type(refusal)
        return None


@pytest.fixture
async def links(pool: Pool) -> BindingLinks:
    place = await add_place(pool)
    return BindingLinks(pool, place, await add_installation(pool, place))


async def test_prompt_stores_the_hash_of_its_token_and_nothing_else(links: BindingLinks) -> None:
    token = await links.token()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    rows = await links.sql(
        "select token_hash, workspace_id, installation_id, channel_user_id, expires_at - created_at = '15 min',"
        " consumed_at, to_jsonb(t)::text from channel_binding_token t"
    )
    hashed = hashlib.sha256(token.encode()).hexdigest()
    assert rows[0][:-1] == (hashed, links.place.workspace_id, links.installation_id, "ou_eve", True, None)
    assert token not in rows[0][-1]


async def test_prompt_that_is_sent_again_has_another_token_and_the_first_stays_good(links: BindingLinks) -> None:
    first, second = await links.token(), await links.token()
    assert first != second
    assert await links.answer(first, links.place.owner_id) is None


@pytest.mark.parametrize(
    ("language", "word", "label"), [("en", "sign in", "Link my account"), ("zh-Hans", "登录", "去绑定")]
)
async def test_prompt_speaks_the_language_of_the_workspace(
    links: BindingLinks, language: str, word: str, label: str
) -> None:
    await links.sql("update workspace set language = %s", language)
    question = await BindingPrompts(links.store, public_url=URL).compose(links.installation_id, "ou_eve")
    assert question is not None
    assert word in question.text
    assert question.button is not None
    assert question.button.label == label


@pytest.mark.parametrize("language", ["en", "zh-Hans"])
async def test_prompt_without_a_public_url_names_the_operators_command(links: BindingLinks, language: str) -> None:
    await links.sql("update workspace set language = %s", language)
    question = await BindingPrompts(links.store, public_url=None).compose(links.installation_id, "ou_eve")
    assert question is not None
    assert f"gateway lark bind {links.installation_id} ou_eve EMAIL" in question.text
    assert question.button is None
    assert await links.sql("select * from channel_binding_token") == []


async def test_nobody_is_asked_who_is_bound_by_now_or_whose_bot_is_out_of_service(links: BindingLinks) -> None:
    prompts = BindingPrompts(links.store, public_url=URL)
    await links.bindings.bind(links.installation_id, "ou_ann", links.place.owner_email)
    assert await prompts.compose(links.installation_id, "ou_ann") is None
    await links.sql("update channel_installation set status = 'revoked'")
    assert await prompts.compose(links.installation_id, "ou_eve") is None
    assert await links.sql("select * from channel_binding_token") == []


async def test_redeemed_link_binds_the_account_it_was_sent_to(links: BindingLinks) -> None:
    binding = await links.bindings.redeem(await links.token(), links.place.owner_id)
    assert (binding.workspace_id, binding.installation_id) == (links.place.workspace_id, links.installation_id)
    assert (binding.user_id, binding.channel_user_id) == (links.place.owner_id, "ou_eve")
    assert await links.bindings.list(links.installation_id) == [binding]
    assert await links.sql("select consumed_at is not null from channel_binding_token") == [(True,)]


async def test_used_unknown_and_malformed_links_are_equally_over(links: BindingLinks) -> None:
    token = await links.token()
    await links.bindings.redeem(token, links.place.owner_id)
    refusals = set()
    for dead in (token, "A" * 43, "short", "x" * 5000, "ü" * 43, "\0" * 43):
        with pytest.raises(Gone) as raised:
            await links.bindings.redeem(dead, links.place.owner_id)
        refusals.add((raised.value.code, str(raised.value)))
    assert len(refusals) == 1


@pytest.mark.parametrize("blank", ["", "   "])
async def test_blank_token_is_a_bad_request(links: BindingLinks, blank: str) -> None:
    assert await links.answer(blank, links.place.owner_id) is Invalid


async def test_link_is_over_after_fifteen_minutes_by_the_clock_of_the_database(links: BindingLinks) -> None:
    age = "update channel_binding_token set created_at = now() - '15 min'::interval + %s, expires_at = now() + %s"
    late, early = await links.token("ou_1"), await links.token("ou_2")
    await links.sql(age, timedelta(seconds=10), timedelta(seconds=10))
    assert await links.answer(early, links.place.owner_id) is None
    await links.sql(age, timedelta(0), timedelta(0))
    assert await links.answer(late, links.place.owner_id) is Gone


async def test_stolen_link_is_refused_to_a_stranger_and_still_good_for_a_member(links: BindingLinks) -> None:
    token = await links.token()
    thief = await add_person(links.pool, "thief@else.example")
    elsewhere = await add_place(links.pool, "other")
    await add_member(links.pool, elsewhere.workspace_id, thief, "owner")
    assert await links.answer(token, thief) is Forbidden
    assert await links.bindings.list(links.installation_id) == []
    assert await links.answer(token, links.place.owner_id) is None


async def test_second_link_of_a_bound_person_is_fine_for_them_and_a_conflict_for_others(links: BindingLinks) -> None:
    first, second, third = [await links.token() for _ in range(3)]
    bob = await links.member("bob@acme.example")
    before = await links.bindings.redeem(first, links.place.owner_id)
    again = await links.bindings.redeem(second, links.place.owner_id)
    assert (again.id, again.user_id) == (before.id, before.user_id)
    assert again.bound_at > before.bound_at
    assert await links.answer(third, bob) is Conflict
    assert await links.answer(third, links.place.owner_id) is None


async def test_removed_member_cannot_bind_again_with_a_link_they_kept(links: BindingLinks) -> None:
    bob = await links.member("bob@acme.example")
    first, kept = await links.token(), await links.token()
    assert await links.answer(first, bob) is None
    await PostgresDirectoryStore(links.pool).remove_member(links.place.workspace_id, bob)
    assert await links.bindings.list(links.installation_id) == []
    assert await links.answer(kept, bob) is Forbidden


async def test_link_of_a_bot_out_of_service_is_over(links: BindingLinks) -> None:
    token = await links.token()
    await links.sql("update channel_installation set status = 'revoked'")
    assert await links.answer(token, links.place.owner_id) is Gone


async def test_one_link_used_many_times_at_once_binds_once(links: BindingLinks) -> None:
    token = await links.token()
    people = [await links.member(f"p{number}@acme.example") for number in range(6)]
    answers: list[type[DomainError] | None] = []

    async def redeem(person: UUID) -> None:
        answers.append(await links.answer(token, person))

    async with trio.open_nursery() as nursery:
        for person in people:
            nursery.start_soon(redeem, person)
    assert Counter(answers) == {None: 1, Gone: 5}
    assert len(await links.bindings.list(links.installation_id)) == 1


async def test_link_whose_first_redeemer_is_refused_at_the_same_moment_serves_the_second(links: BindingLinks) -> None:
    token = await links.token()
    thief = await add_person(links.pool, "thief@else.example")
    answers: dict[UUID, type[DomainError] | None] = {}

    async def redeem(person: UUID) -> None:
        answers[person] = await links.answer(token, person)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(redeem, thief)
        nursery.start_soon(redeem, links.place.owner_id)
    assert answers[links.place.owner_id] is None
    assert answers[thief] in {Forbidden, Gone}


async def test_people_of_a_bot_are_listed_and_unbound_within_their_workspace(links: BindingLinks) -> None:
    binding = await links.bindings.redeem(await links.token(), links.place.owner_id)
    workspace = links.place.workspace_id
    (person,) = await links.bindings.people(workspace, links.installation_id)
    assert (person.id, person.email, person.channel_user_id) == (binding.id, links.place.owner_email, "ou_eve")
    for wrong in ((uuid4(), links.installation_id, binding.id), (workspace, uuid4(), binding.id)):
        with pytest.raises(NotFound):
            await links.bindings.delete(*wrong)
    with pytest.raises(NotFound):
        await links.bindings.people(uuid4(), links.installation_id)
    await links.bindings.delete(workspace, links.installation_id, binding.id)
    assert await links.bindings.people(workspace, links.installation_id) == []
