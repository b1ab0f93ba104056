-- The writes of an import, a batch of JSON records at a time, each with its number `n` in the batch. Existing rows stay
-- as they are. The answer says for each record if it was added or known before. If neither is true, another row takes
-- its place.

-- name: lock_legacy_import()$
-- One import at a time, because each import compares its records with the rows that existed before it began.
select pg_try_advisory_xact_lock(7019264221530121::bigint);

-- name: wait_for_legacy_source()$
-- This transaction idles while the old database reads the rows of a table, which may be many. So its idle timeout is
-- turned off.
select set_config('idle_in_transaction_session_timeout', '0', true);

-- name: import_workspaces(records)
-- A slug that is taken gets the beginning of the id appended, because everything else depends on the workspace.
with given as (
  select * from jsonb_to_recordset(:records::jsonb) as r(n int, id uuid, name text, slug text, issue_prefix text,
    issue_counter bigint, settings jsonb, created_at timestamptz, updated_at timestamptz)
), added as (
  insert into workspace (id, name, slug, issue_prefix, issue_counter, settings, created_at, updated_at)
  select id, name,
    case when exists (select from workspace w where w.slug = given.slug and w.id <> given.id)
      then slug || '-' || left(id::text, 8) else slug end,
    issue_prefix, issue_counter, settings, coalesce(created_at, now()), coalesce(updated_at, created_at, now())
  from given
  on conflict do nothing
  returning id
)
select given.n, added.id is not null as added, exists (select from workspace w where w.id = given.id) as known
from given left join added on added.id = given.id;

-- name: import_users(records)
-- A user with the same address is the same person, even if the id here differs.
with given as (
  select * from jsonb_to_recordset(:records::jsonb) as r(n int, id uuid, email text, name text, created_at timestamptz)
), added as (
  insert into app_user (id, email, name, created_at)
  select id, email, name, coalesce(created_at, now()) from given order by n
  on conflict do nothing
  returning id, email
)
select given.n, added.id is not null as added,
  coalesce(added.id, same_id.id, same_email.id, twin.id) as user_id
from given
left join added on added.id = given.id
left join app_user same_id on same_id.id = given.id
left join app_user same_email on same_email.email = given.email
left join added twin on twin.email = given.email;

-- name: import_members(records)
-- A role that was changed here stays changed. Two users of the old product may be one person here. Then only the first
-- of them counts as added.
with given as (
  select * from jsonb_to_recordset(:records::jsonb)
    as r(n int, workspace_id uuid, user_id uuid, role text, created_at timestamptz)
), added as (
  insert into member (workspace_id, user_id, role, created_at)
  select workspace_id, user_id, role, coalesce(created_at, now()) from given order by n
  on conflict do nothing
  returning workspace_id, user_id
)
select given.n,
  added.user_id is not null
    and not exists (select from given former where former.n < given.n and former.workspace_id = given.workspace_id
      and former.user_id = given.user_id) as added,
  true as known
from given left join added on added.workspace_id = given.workspace_id and added.user_id = given.user_id;

-- name: import_runtimes(records)
-- They have no token here, so they cannot be used until one is created. A name that is taken gets the beginning of the
-- id appended.
with given as (
  select *, row_number() over (partition by workspace_id, name order by n) as nth
  from jsonb_to_recordset(:records::jsonb)
    as r(n int, id uuid, workspace_id uuid, name text, kind text, version text, created_at timestamptz)
), added as (
  insert into agent_runtime (id, workspace_id, name, kind, version, created_at)
  select id, workspace_id,
    case when nth > 1 or exists (select from agent_runtime other where other.workspace_id = given.workspace_id
        and other.name = given.name and other.id <> given.id)
      then name || ' (' || left(id::text, 8) || ')' else name end,
    kind, version, coalesce(created_at, now())
  from given
  on conflict do nothing
  returning id
)
select given.n, added.id is not null as added, exists (select from agent_runtime r where r.id = given.id) as known
from given left join added on added.id = given.id;

-- name: import_agents(records)
-- A name that is taken gets the beginning of the id appended. People know the agent by its bot.
with given as (
  select *, row_number() over (partition by workspace_id, name order by n) as nth
  from jsonb_to_recordset(:records::jsonb)
    as r(n int, id uuid, workspace_id uuid, name text, owner_id uuid, runtime_id uuid, visibility text,
      max_concurrent_tasks int, archived_at timestamptz, created_at timestamptz)
), added as (
  insert into agent
    (id, workspace_id, name, owner_id, runtime_id, visibility, max_concurrent_tasks, archived_at, created_at)
  select id, workspace_id,
    case when nth > 1 or exists (select from agent other where other.workspace_id = given.workspace_id
        and other.name = given.name and other.id <> given.id)
      then name || ' (' || left(id::text, 8) || ')' else name end,
    owner_id, runtime_id, visibility, max_concurrent_tasks, archived_at, coalesce(created_at, now())
  from given
  on conflict do nothing
  returning id
)
select given.n, added.id is not null as added, exists (select from agent a where a.id = given.id) as known
from given left join added on added.id = given.id;

-- name: import_chat_sessions(records)
-- Each session gets a completed run that has taken in everything said so far. Without it, the next run would find all
-- past messages waiting for an answer.
with given as (
  select * from jsonb_to_recordset(:records::jsonb)
    as r(n int, id uuid, workspace_id uuid, agent_id uuid, creator_id uuid, title text, archived_at timestamptz,
      created_at timestamptz, updated_at timestamptz)
), added as (
  insert into chat_session (id, workspace_id, agent_id, creator_id, title, archived_at, created_at, updated_at)
  select id, workspace_id, agent_id, creator_id, title, archived_at, coalesce(created_at, now()),
    coalesce(updated_at, created_at, now())
  from given
  on conflict do nothing
  returning id, workspace_id, agent_id
), past as (
  insert into agent_task (id, workspace_id, agent_id, kind, status, chat_session_id, completed_at, result)
  select md5('gateway legacy import ' || id::text)::uuid, workspace_id, agent_id, 'chat', 'completed', id, now(),
    '{"imported": true}'
  from added
)
select given.n, added.id is not null as added, exists (select from chat_session s where s.id = given.id) as known
from given left join added on added.id = given.id;

-- name: import_chat_messages(records)
-- In the order of the batch, which is the order of the conversation.
with given as (
  select * from jsonb_to_recordset(:records::jsonb)
    as r(n int, id uuid, chat_session_id uuid, role text, kind text, content text, author_user_id uuid,
      created_at timestamptz)
), added as (
  insert into chat_message (id, chat_session_id, role, kind, content, author_user_id, task_id, created_at)
  select given.id, given.chat_session_id, given.role, given.kind, given.content, given.author_user_id, past.id,
    coalesce(given.created_at, now())
  from given
  left join agent_task past on given.role = 'user'
    and past.id = md5('gateway legacy import ' || given.chat_session_id::text)::uuid
  order by given.n
  on conflict do nothing
  returning id
)
select given.n, added.id is not null as added, exists (select from chat_message m where m.id = given.id) as known
from given left join added on added.id = given.id;

-- name: import_installations(records)
-- Without a lease, because no process here holds the link yet.
with given as (
  select * from jsonb_to_recordset(:records::jsonb)
    as r(n int, id uuid, workspace_id uuid, agent_id uuid, channel_type text, config jsonb, status text,
      installer_user_id uuid, installed_at timestamptz, created_at timestamptz, updated_at timestamptz)
), added as (
  insert into channel_installation (id, workspace_id, agent_id, channel_type, config, status, installer_user_id,
    installed_at, created_at, updated_at)
  select id, workspace_id, agent_id, channel_type, config, status, installer_user_id, coalesce(installed_at, now()),
    coalesce(created_at, installed_at, now()), coalesce(updated_at, created_at, now())
  from given
  on conflict do nothing
  returning id
)
select given.n, added.id is not null as added, exists (select from channel_installation i where i.id = given.id) as known
from given left join added on added.id = given.id;

-- name: explain_installation(id, workspace_id, agent_id, channel_type, app_id)
-- The row that holds the app, and the bot that the agent has. An operator can decide between the two only if both are
-- named.
select i.id, i.agent_id, i.config ->> 'app_id' = :app_id::text as same_app
from channel_installation i
where i.channel_type = :channel_type and i.id <> :id
  and (i.config ->> 'app_id' = :app_id::text or (i.workspace_id = :workspace_id and i.agent_id = :agent_id))
order by same_app desc;

-- name: import_user_bindings(records)
-- An account that was bound here to the same person meanwhile counts as known. Only a binding to another person is a
-- conflict.
with given as (
  select * from jsonb_to_recordset(:records::jsonb)
    as r(n int, id uuid, workspace_id uuid, user_id uuid, installation_id uuid, channel_type text,
      channel_user_id text, config jsonb, bound_at timestamptz)
), added as (
  insert into channel_user_binding
    (id, workspace_id, user_id, installation_id, channel_type, channel_user_id, config, bound_at)
  select id, workspace_id, user_id, installation_id, channel_type, channel_user_id, config, coalesce(bound_at, now())
  from given
  on conflict do nothing
  returning id
)
select given.n, added.id is not null as added,
  exists (select from channel_user_binding b where b.id = given.id)
    or exists (select from channel_user_binding b where b.installation_id = given.installation_id
      and b.channel_user_id = given.channel_user_id and b.user_id = given.user_id) as known
from given left join added on added.id = given.id;

-- name: import_chat_session_bindings(records)
-- A chat that has begun its own conversation here goes on with that one.
with given as (
  select * from jsonb_to_recordset(:records::jsonb)
    as r(n int, id uuid, workspace_id uuid, chat_session_id uuid, installation_id uuid, channel_type text,
      channel_chat_id text, chat_type text, last_message_id text, last_thread_id text, config jsonb,
      created_at timestamptz)
), added as (
  insert into channel_chat_session_binding (id, workspace_id, chat_session_id, installation_id, channel_type,
    channel_chat_id, chat_type, last_message_id, last_thread_id, config, created_at)
  select id, workspace_id, chat_session_id, installation_id, channel_type, channel_chat_id, chat_type,
    last_message_id, last_thread_id, config, coalesce(created_at, now())
  from given
  on conflict do nothing
  returning id
)
select given.n, added.id is not null as added,
  exists (select from channel_chat_session_binding b where b.id = given.id) as known
from given left join added on added.id = given.id;

-- name: import_inbound_message_dedups(records)
-- The oldest tables had no claim token. Any token will do, because these claims have no holder.
with given as (
  select * from jsonb_to_recordset(:records::jsonb)
    as r(n int, installation_id uuid, message_id text, received_at timestamptz, processed_at timestamptz,
      claim_token uuid)
), added as (
  insert into channel_inbound_message_dedup (installation_id, message_id, received_at, processed_at, claim_token)
  select installation_id, message_id, coalesce(received_at, now()), processed_at,
    coalesce(claim_token, gen_random_uuid())
  from given
  on conflict do nothing
  returning installation_id, message_id
)
select given.n, added.message_id is not null as added,
  exists (select from channel_inbound_message_dedup d
    where d.installation_id = given.installation_id and d.message_id = given.message_id) as known
from given left join added on added.installation_id = given.installation_id and added.message_id = given.message_id;

-- name: import_inbound_audits(records)
-- Without the content of messages, as in the old tables.
with given as (
  select * from jsonb_to_recordset(:records::jsonb)
    as r(n int, id uuid, installation_id uuid, channel_type text, channel_chat_id text, event_type text,
      channel_event_id text, channel_message_id text, drop_reason text, received_at timestamptz)
), added as (
  insert into channel_inbound_audit (id, installation_id, channel_type, channel_chat_id, event_type, channel_event_id,
    channel_message_id, drop_reason, received_at)
  select id, installation_id, channel_type, channel_chat_id, event_type, channel_event_id, channel_message_id,
    drop_reason, coalesce(received_at, now())
  from given
  on conflict do nothing
  returning id
)
select given.n, added.id is not null as added, exists (select from channel_inbound_audit a where a.id = given.id) as known
from given left join added on added.id = given.id;

-- name: import_outbound_card_messages(records)
-- The tasks that they name are not imported. The id of a task still prevents a second card for it.
with given as (
  select * from jsonb_to_recordset(:records::jsonb)
    as r(n int, id uuid, chat_session_id uuid, task_id uuid, channel_type text, channel_chat_id text,
      channel_card_message_id text, status text, last_patched_at timestamptz, created_at timestamptz)
), added as (
  insert into channel_outbound_card_message (id, chat_session_id, task_id, channel_type, channel_chat_id,
    channel_card_message_id, status, last_patched_at, created_at)
  select id, chat_session_id, task_id, channel_type, channel_chat_id, channel_card_message_id, status,
    last_patched_at, coalesce(created_at, now())
  from given
  on conflict do nothing
  returning id
)
select given.n, added.id is not null as added,
  exists (select from channel_outbound_card_message c where c.id = given.id) as known
from given left join added on added.id = given.id;

-- name: import_binding_tokens(records)
-- The expiry is at most 15 minutes after the creation, even if a clock of the old server ran ahead.
with given as (
  select token.*, coalesce(token.created_at, token.expires_at - interval '15 minutes') as made_at
  from jsonb_to_recordset(:records::jsonb)
    as token(n int, token_hash text, workspace_id uuid, installation_id uuid, channel_type text, channel_user_id text,
      created_at timestamptz, expires_at timestamptz, consumed_at timestamptz)
), added as (
  insert into channel_binding_token (token_hash, workspace_id, installation_id, channel_type, channel_user_id,
    created_at, expires_at, consumed_at)
  select token_hash, workspace_id, installation_id, channel_type, channel_user_id, made_at,
    least(expires_at, made_at + interval '15 minutes'), consumed_at
  from given
  on conflict do nothing
  returning token_hash
)
select given.n, added.token_hash is not null as added,
  exists (select from channel_binding_token t where t.token_hash = given.token_hash) as known
from given left join added on added.token_hash = given.token_hash;
