-- What an import reads from the reference product's database. Nothing here runs on our schema.
-- A row is taken as JSON, because which columns there are depends on how old that database is. Every statement takes
-- :ids, also where it needs none, and says with each row how many there are.

-- name: legacy_table_exists(name)$
-- Older databases do not have all tables, and one that has none of them is not what it was taken for.
select to_regclass(:name::text) is not null;

-- name: legacy_has_later_rows()$
-- While the old product moves from its older tables to the later ones it has both: what is empty counts for nothing.
select exists (select from channel_installation);

-- name: legacy_workspaces(ids)
-- Those that have a bot.
select to_jsonb(t) as fields, count(*) over () as total from workspace t where t.id = any(:ids::uuid[]);

-- name: legacy_users(ids)
-- The people around the bots, and nobody else.
select to_jsonb(t) as fields, count(*) over () as total from "user" t where t.id = any(:ids::uuid[]);

-- name: legacy_members(ids)
-- Of whole workspaces: whoever is a member may be bound later.
select to_jsonb(t) as fields, count(*) over () as total from member t where t.workspace_id = any(:ids::uuid[]);

-- name: legacy_agents(ids)
-- Of whole workspaces: a bot may be moved to another agent later.
select to_jsonb(t) as fields, count(*) over () as total from agent t where t.workspace_id = any(:ids::uuid[]);

-- name: legacy_runtimes(ids)
-- Only those that an agent runs on.
select to_jsonb(t) as fields, count(*) over () as total from agent_runtime t where t.id = any(:ids::uuid[]);

-- name: legacy_sessions(ids)
-- Only those that a chat leads to: what people said to agents elsewhere stays there.
select to_jsonb(t) as fields, count(*) over () as total from chat_session t where t.id = any(:ids::uuid[]);

-- name: legacy_messages(ids)
-- In the order in which they were said, which becomes their order here.
select to_jsonb(t) as fields, count(*) over () as total
from chat_message t
where t.chat_session_id = any(:ids::uuid[])
order by t.created_at, t.id;

-- name: lark_installations(ids)
-- Revoked ones too: they may be taken up again, with the people bound to them. A lease that runs tells that the old
-- server is still up.
select to_jsonb(t) || jsonb_build_object(
    'lease_runs', coalesce((to_jsonb(t) ->> 'ws_lease_expires_at')::timestamptz > now(), false)
  ) as fields,
  count(*) over () as total
from lark_installation t
where :ids::uuid[] is not null;

-- name: lark_user_bindings(ids)
-- Who is bound need not bind again.
select to_jsonb(t) as fields, count(*) over () as total from lark_user_binding t where :ids::uuid[] is not null;

-- name: lark_chat_session_bindings(ids)
-- Which conversation a chat continues.
select to_jsonb(t) as fields, count(*) over () as total
from lark_chat_session_binding t
where :ids::uuid[] is not null;

-- name: lark_inbound_message_dedups(ids)
-- What was taken in there is not taken in again when the platform redelivers it here.
select to_jsonb(t) as fields, count(*) over () as total
from lark_inbound_message_dedup t
where :ids::uuid[] is not null;

-- name: lark_inbound_audits(ids)
-- The trail of what was dropped goes on.
select to_jsonb(t) as fields, count(*) over () as total from lark_inbound_audit t where :ids::uuid[] is not null;

-- name: lark_outbound_card_messages(ids)
-- Which card belongs to which conversation.
select to_jsonb(t) as fields, count(*) over () as total
from lark_outbound_card_message t
where :ids::uuid[] is not null;

-- name: lark_binding_tokens(ids)
-- Links that people have in their hands keep working for their quarter of an hour.
select to_jsonb(t) as fields, count(*) over () as total from lark_binding_token t where :ids::uuid[] is not null;

-- name: channel_installations(ids)
-- As lark_installations, in the later tables.
select to_jsonb(t) || jsonb_build_object(
    'lease_runs', coalesce((to_jsonb(t) ->> 'ws_lease_expires_at')::timestamptz > now(), false)
  ) as fields,
  count(*) over () as total
from channel_installation t
where :ids::uuid[] is not null;

-- name: channel_user_bindings(ids)
-- As lark_user_bindings, in the later tables.
select to_jsonb(t) as fields, count(*) over () as total from channel_user_binding t where :ids::uuid[] is not null;

-- name: channel_chat_session_bindings(ids)
-- As lark_chat_session_bindings, in the later tables.
select to_jsonb(t) as fields, count(*) over () as total
from channel_chat_session_binding t
where :ids::uuid[] is not null;

-- name: channel_inbound_message_dedups(ids)
-- As lark_inbound_message_dedups, in the later tables.
select to_jsonb(t) as fields, count(*) over () as total
from channel_inbound_message_dedup t
where :ids::uuid[] is not null;

-- name: channel_inbound_audits(ids)
-- As lark_inbound_audits, in the later tables.
select to_jsonb(t) as fields, count(*) over () as total from channel_inbound_audit t where :ids::uuid[] is not null;

-- name: channel_outbound_card_messages(ids)
-- As lark_outbound_card_messages, in the later tables.
select to_jsonb(t) as fields, count(*) over () as total
from channel_outbound_card_message t
where :ids::uuid[] is not null;

-- name: channel_binding_tokens(ids)
-- As lark_binding_tokens, in the later tables.
select to_jsonb(t) as fields, count(*) over () as total from channel_binding_token t where :ids::uuid[] is not null;
