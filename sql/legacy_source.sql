-- The reads of an import from the database of the reference product. No statement here runs on the schema of the
-- gateway. A row is returned as JSON, because its columns depend on the age of that database. Every statement takes
-- :ids, even if it does not need them, and returns with each row the total number of rows.

-- name: legacy_table_exists(name)$
-- Older databases lack some of the tables. A database that has none of them is not one of the reference product.
select to_regclass(:name::text) is not null;

-- name: legacy_has_later_rows()$
-- While the old product moves from its older tables to the later ones, it has both. Empty tables do not count.
select exists (select from channel_installation);

-- name: legacy_workspaces(ids)
-- Those that have a bot.
select to_jsonb(t) as fields, count(*) over () as total from workspace t where t.id = any(:ids::uuid[]);

-- name: legacy_users(ids)
-- Only the people who are connected with the bots.
select to_jsonb(t) as fields, count(*) over () as total from "user" t where t.id = any(:ids::uuid[]);

-- name: legacy_members(ids)
-- Of whole workspaces, because any member may be bound later.
select to_jsonb(t) as fields, count(*) over () as total from member t where t.workspace_id = any(:ids::uuid[]);

-- name: legacy_agents(ids)
-- Of whole workspaces, because a bot may be moved to another agent later.
select to_jsonb(t) as fields, count(*) over () as total from agent t where t.workspace_id = any(:ids::uuid[]);

-- name: legacy_runtimes(ids)
-- Only those that an agent runs on.
select to_jsonb(t) as fields, count(*) over () as total from agent_runtime t where t.id = any(:ids::uuid[]);

-- name: legacy_sessions(ids)
-- Only those that belong to a chat. Conversations with agents outside a chat are not imported.
select to_jsonb(t) as fields, count(*) over () as total from chat_session t where t.id = any(:ids::uuid[]);

-- name: legacy_messages(ids)
-- In the order of the conversation, which becomes their order here.
select to_jsonb(t) as fields, count(*) over () as total
from chat_message t
where t.chat_session_id = any(:ids::uuid[])
order by t.created_at, t.id;

-- name: lark_installations(ids)
-- Revoked ones too: they may be reactivated, with the people bound to them. A lease that has not expired shows that the
-- old server is still running.
select to_jsonb(t) || jsonb_build_object(
    'lease_runs', coalesce((to_jsonb(t) ->> 'ws_lease_expires_at')::timestamptz > now(), false)
  ) as fields,
  count(*) over () as total
from lark_installation t
where :ids::uuid[] is not null;

-- name: lark_user_bindings(ids)
-- People who are bound there need not bind again.
select to_jsonb(t) as fields, count(*) over () as total from lark_user_binding t where :ids::uuid[] is not null;

-- name: lark_chat_session_bindings(ids)
-- The conversation that each chat continues.
select to_jsonb(t) as fields, count(*) over () as total
from lark_chat_session_binding t
where :ids::uuid[] is not null;

-- name: lark_inbound_message_dedups(ids)
-- A message that was taken in there is not taken in again when the platform redelivers it here.
select to_jsonb(t) as fields, count(*) over () as total
from lark_inbound_message_dedup t
where :ids::uuid[] is not null;

-- name: lark_inbound_audits(ids)
-- The history of dropped messages continues here.
select to_jsonb(t) as fields, count(*) over () as total from lark_inbound_audit t where :ids::uuid[] is not null;

-- name: lark_outbound_card_messages(ids)
-- The conversation that each card belongs to.
select to_jsonb(t) as fields, count(*) over () as total
from lark_outbound_card_message t
where :ids::uuid[] is not null;

-- name: lark_binding_tokens(ids)
-- Links that people have received keep working for the rest of their 15 minutes.
select to_jsonb(t) as fields, count(*) over () as total from lark_binding_token t where :ids::uuid[] is not null;

-- name: channel_installations(ids)
-- Like lark_installations, in the later tables.
select to_jsonb(t) || jsonb_build_object(
    'lease_runs', coalesce((to_jsonb(t) ->> 'ws_lease_expires_at')::timestamptz > now(), false)
  ) as fields,
  count(*) over () as total
from channel_installation t
where :ids::uuid[] is not null;

-- name: channel_user_bindings(ids)
-- Like lark_user_bindings, in the later tables.
select to_jsonb(t) as fields, count(*) over () as total from channel_user_binding t where :ids::uuid[] is not null;

-- name: channel_chat_session_bindings(ids)
-- Like lark_chat_session_bindings, in the later tables.
select to_jsonb(t) as fields, count(*) over () as total
from channel_chat_session_binding t
where :ids::uuid[] is not null;

-- name: channel_inbound_message_dedups(ids)
-- Like lark_inbound_message_dedups, in the later tables.
select to_jsonb(t) as fields, count(*) over () as total
from channel_inbound_message_dedup t
where :ids::uuid[] is not null;

-- name: channel_inbound_audits(ids)
-- Like lark_inbound_audits, in the later tables.
select to_jsonb(t) as fields, count(*) over () as total from channel_inbound_audit t where :ids::uuid[] is not null;

-- name: channel_outbound_card_messages(ids)
-- Like lark_outbound_card_messages, in the later tables.
select to_jsonb(t) as fields, count(*) over () as total
from channel_outbound_card_message t
where :ids::uuid[] is not null;

-- name: channel_binding_tokens(ids)
-- Like lark_binding_tokens, in the later tables.
select to_jsonb(t) as fields, count(*) over () as total from channel_binding_token t where :ids::uuid[] is not null;
