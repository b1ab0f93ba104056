"""Purges on a real Postgres: what is over goes, all of it in bounded pieces, and nothing else."""

from __future__ import annotations

import trio

from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.purges import purges
from support.purging import purge
from support.tenant import Tenant


async def test_claims_of_messages_are_kept_a_day(pool: Pool) -> None:
    tenant = Tenant(pool)
    await tenant.sql(
        "insert into channel_inbound_message_dedup (installation_id, message_id, received_at, claim_token)"
        " select gen_random_uuid(), 'om_' || hours, now() - make_interval(hours => hours), gen_random_uuid()"
        " from generate_series(1, 47, 2) hours"
    )
    assert [await purge(pool, "inbound_claims", rows_max=5) for _ in range(2)] == [12, 0]
    rows = await tenant.sql(
        "select max(now() - received_at) < interval '24 hours' as young from channel_inbound_message_dedup"
    )
    assert rows == [{"young": True}]


async def test_binding_tokens_outlive_their_end_by_an_hour(pool: Pool) -> None:
    tenant = Tenant(pool)
    await tenant.sql(
        "insert into channel_binding_token (token_hash, workspace_id, installation_id, channel_type, channel_user_id,"
        " created_at, expires_at)"
        " select lpad(minutes::text, 64, '0'), gen_random_uuid(), gen_random_uuid(), 'feishu', 'ou_1',"
        " now() - make_interval(mins => minutes), now() - make_interval(mins => minutes - 15)"
        " from unnest(array[1, 30, 74, 76, 200]) minutes"
    )
    assert await purge(pool, "binding_tokens") == 2


async def test_questions_to_bind_are_forgotten_after_an_hour(pool: Pool) -> None:
    tenant = Tenant(pool)
    await tenant.sql(
        "insert into channel_binding_prompt (installation_id, channel_user_id, prompted_at)"
        " select gen_random_uuid(), 'ou_1', now() - make_interval(mins => minutes)"
        " from unnest(array[1, 59, 61, 900]) minutes"
    )
    assert await purge(pool, "binding_prompts") == 2


async def test_sessions_go_when_they_end(pool: Pool) -> None:
    tenant = Tenant(pool)
    await tenant.create()
    await tenant.sql(
        "insert into user_session (token_hash, user_id, expires_at)"
        " select lpad(n::text, 64, '0'), %(user)s, now() + make_interval(mins => n) from unnest(array[1, 5]) n"
        " union all select lpad('9', 64, '0'), %(user)s, now() - interval '1 minute'",
        user=tenant.user_id,
    )
    assert await purge(pool, "user_sessions") == 1


async def test_rows_that_another_process_is_deleting_are_passed_over(pool: Pool, database: str) -> None:
    tenant = Tenant(pool)
    await tenant.sql(
        "insert into channel_inbound_message_dedup (installation_id, message_id, received_at, claim_token)"
        " select gen_random_uuid(), 'om_' || n, now() - interval '2 days', gen_random_uuid()"
        " from generate_series(1, 9) n"
    )
    async with await TrioConnection.connect(database) as other, other.transaction():
        await other.execute("delete from channel_inbound_message_dedup where message_id in ('om_1', 'om_5')")
        with trio.fail_after(10):
            assert await purge(pool, "inbound_claims", rows_max=3) == 7


async def test_held_commands_go_after_nobody_can_confirm_them(pool: Pool) -> None:
    tenant = Tenant(pool)
    await tenant.sql(
        "insert into channel_pending_command (chat_session_id, user_id, workspace_id, installation_id, chat_message_id,"
        " words, created_at)"
        " select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), '/new',"
        " now() - make_interval(mins => minutes) from unnest(array[1, 59, 119, 121, 200]) minutes"
    )
    assert await purge(pool, "held_commands") == 2


def test_log_of_deliveries_is_kept_for_ever_where_no_number_of_days_is_set() -> None:
    kept, purged = (purges(history_days=90, delivery_days=days) for days in (0, 30))
    assert {each.name for each in purged} - {each.name for each in kept} == {"deliveries"}
    assert [each.keep_seconds for each in purged if each.name == "deliveries"] == [30 * 86_400.0]
