-- Installation rows. The lease columns belong to lease.sql, and no statement here writes them.

-- name: agent_home(agent_id)^
-- The installer defaults to the owner who came first.
select a.workspace_id, a.name, a.archived_at is not null as archived,
  (select m.user_id from member m
   where m.workspace_id = a.workspace_id and m.role = 'owner'
   order by m.created_at, m.user_id limit 1) as owner_id
from agent a
where a.id = :agent_id;

-- name: member_by_email(workspace_id, email)$
-- An installer has to be a member, because the bot acts in their name.
select m.user_id
from member m
join app_user u on u.id = m.user_id
where m.workspace_id = :workspace_id and u.email = lower(:email);

-- name: installation_id_of_agent(workspace_id, agent_id, channel_type)$
-- Runs before sealing, because a sealed secret is bound to the id of its row.
select id
from channel_installation
where workspace_id = :workspace_id and agent_id = :agent_id and channel_type = :channel_type;

-- name: reclaim_dead_installation(channel_type, app_id, workspace_id, agent_id)!
-- The unique index on the app id would let a dead row block a new installation for ever. The delete is guarded: a row
-- stays if it is active again, or if its link may still be open in some process. Dependent rows are deleted here
-- because there are no foreign keys to do it. That includes waiting messages, because the app now belongs to another
-- agent.
with dead as (
  delete from channel_installation i
  where i.channel_type = :channel_type and i.config ->> 'app_id' = :app_id
    and not (i.workspace_id = :workspace_id and i.agent_id = :agent_id)
    and (i.ws_lease_expires_at is null or i.ws_lease_expires_at <= now())
    and (i.status = 'revoked'
      or not exists (select from agent a where a.id = i.agent_id and a.workspace_id = i.workspace_id))
  returning i.id, i.workspace_id
), user_bindings as (
  delete from channel_user_binding b using dead
  where b.installation_id = dead.id and b.workspace_id = dead.workspace_id
), chat_bindings as (
  delete from channel_chat_session_binding b using dead
  where b.installation_id = dead.id and b.workspace_id = dead.workspace_id
  returning b.chat_session_id
), cards as (
  delete from channel_outbound_card_message c using chat_bindings b where c.chat_session_id = b.chat_session_id
), claims as (
  delete from channel_inbound_message_dedup d using dead where d.installation_id = dead.id
), audits as (
  delete from channel_inbound_audit a using dead where a.installation_id = dead.id
), tokens as (
  delete from channel_binding_token t using dead
  where t.installation_id = dead.id and t.workspace_id = dead.workspace_id
), links as (
  delete from channel_connection c using dead where c.installation_id = dead.id
), typing as (
  delete from channel_typing t using dead where t.installation_id = dead.id and t.workspace_id = dead.workspace_id
), outbox as (
  delete from outbound_message o using dead where o.installation_id = dead.id and o.workspace_id = dead.workspace_id
)
select id from dead;

-- name: bot_in_place(workspace_id, agent_id, channel_type)^
-- The live bot that another app would replace, and the number of its dependent rows.
select i.id, coalesce(i.config ->> 'app_id', '') as app_id,
  (select count(*) from channel_user_binding b
   where b.installation_id = i.id and b.workspace_id = i.workspace_id) as accounts,
  (select count(*) from channel_chat_session_binding c
   where c.installation_id = i.id and c.workspace_id = i.workspace_id) as conversations
from channel_installation i
where i.workspace_id = :workspace_id and i.agent_id = :agent_id and i.channel_type = :channel_type
  and i.status = 'active';

-- name: end_links_of_former_app(id, app_id)!
-- Runs before another app takes the row. The binding links name accounts by the ids of the former app, which the new
-- app does not know.
delete from channel_binding_token t
using channel_installation i
where i.id = :id and t.installation_id = i.id and t.workspace_id = i.workspace_id
  and i.config ->> 'app_id' <> :app_id;

-- name: upsert_installation(id, workspace_id, agent_id, channel_type, config, installer_user_id, replaces)$
-- The live bot of another app gives way only to a draft that replaces. The lock of the row decides between two drafts
-- at once. The statement reactivates the row and replaces the credentials. The lease columns keep their values, so a
-- live holder sees a rotation of credentials and not the loss of its lease. The secrets are sealed for the id of the
-- row, so a row with another id must not take them (no row returned). The config is replaced as a whole: a key that the
-- new one lacks must not come from an older state of the app.
insert into channel_installation as i (id, workspace_id, agent_id, channel_type, config, installer_user_id)
values (:id, :workspace_id, :agent_id, :channel_type, :config::jsonb, :installer_user_id)
on conflict on constraint channel_installation_agent_key do update
set config = excluded.config, installer_user_id = excluded.installer_user_id, status = 'active', installed_at = now(),
  updated_at = now()
where i.id = excluded.id
  and (:replaces or i.status <> 'active' or i.config ->> 'app_id' = excluded.config ->> 'app_id')
returning i.id;

-- name: app_holder(channel_type, app_id)^
-- The row that holds the app, for the text of a refusal.
select i.id, i.agent_id,
  i.status = 'revoked'
    or not exists (select from agent a where a.id = i.agent_id and a.workspace_id = i.workspace_id) as dead
from channel_installation i
where i.channel_type = :channel_type and i.config ->> 'app_id' = :app_id;

-- name: revoke_installation(id, workspace_id)!
-- Changes only the status, because a later installation of the same agent uses the row again. No row when it is revoked
-- already.
update channel_installation
set status = 'revoked', updated_at = now()
where id = :id and workspace_id = :workspace_id and status <> 'revoked';

-- name: list_installations(id, workspace_id)
-- One installation, those of a workspace, or all. A row whose agent is gone is not served. The list of all leaves it
-- out, but the list of its workspace contains it, so that it can be removed. The stored state means nothing once the
-- lease has expired: then no process listens, and the state shown is standby. Only a bot that receives events can be
-- degraded. The settings leave out what is sealed.
select i.id, i.workspace_id, i.agent_id, i.channel_type,
  coalesce(i.config ->> 'app_id', '') as app_id,
  (
    select coalesce(jsonb_object_agg(key, value), '{}')
    from jsonb_each(case jsonb_typeof(i.config) when 'object' then i.config else '{}' end)
    where right(key, 10) <> '_encrypted'
  ) as settings,
  i.status, i.installer_user_id, i.installed_at,
  case
    when i.status = 'revoked' then 'revoked'
    when i.config ->> 'event_mode' = 'http' and c.state is null then 'http'
    when c.state is null or c.state = 'revoked' then 'standby'
    when c.state in ('live', 'http') and coalesce(i.ws_lease_expires_at <= now(), true) then 'standby'
    when c.state in ('connecting', 'deaf') and c.node <> '' and coalesce(i.ws_lease_expires_at <= now(), true) then 'standby'
    else c.state
  end as state,
  coalesce(c.code, 0) as code, coalesce(c.detail, '') as detail,
  c.last_frame_at, c.last_event_at, c.pong_ms,
  coalesce(i.status <> 'revoked' and c.state in ('live', 'http') and i.ws_lease_expires_at > now()
    and c.degraded_until > now(), false) as degraded
from channel_installation i
join workspace w on w.id = i.workspace_id
left join agent a on a.id = i.agent_id and a.workspace_id = i.workspace_id
left join channel_connection c on c.installation_id = i.id
where (:id::uuid is null or i.id = :id::uuid) and (:workspace_id::uuid is null or i.workspace_id = :workspace_id::uuid)
  and (a.id is not null or :id::uuid is not null or :workspace_id::uuid is not null)
order by i.created_at, i.id;

-- name: list_inbound_audit(installation_id, rows_max, rows_skipped)
-- The newest first. The caller has checked that the installation belongs to the workspace.
select id, event_type, drop_reason, channel_chat_id, channel_event_id, channel_message_id, received_at
from channel_inbound_audit
where installation_id = :installation_id
order by received_at desc, id desc
limit :rows_max offset :rows_skipped;

-- name: list_without_key(channel_type, key, default_value, served_only)
-- Rows whose config has no value for a key, or the default one. With `served_only` those that a process would serve.
select i.id, i.workspace_id, i.config ->> 'app_id' as app_id, i.config
from channel_installation i
left join workspace w on w.id = i.workspace_id
left join agent a on a.id = i.agent_id and a.workspace_id = i.workspace_id
where i.channel_type = :channel_type and i.config ->> 'app_id' is not null
  and coalesce(i.config ->> :key::text, '') in ('', :default_value)
  and (not :served_only::boolean or i.status = 'active' and w.id is not null and a.id is not null)
order by i.created_at, i.id;

-- name: set_config_key(id, workspace_id, app_id, key, value, default_value)!
-- Sets one key, only for the app that the value was learnt from, and only while the key has no value. A background job
-- must not overwrite a value that was stored meanwhile.
update channel_installation
set config = jsonb_set(config, array[:key::text], to_jsonb(:value::text)), updated_at = now()
where id = :id and workspace_id = :workspace_id and config ->> 'app_id' = :app_id
  and coalesce(config ->> :key::text, '') in ('', :default_value);

-- name: get_stored_installation(id)^
-- Read each time before the bot is used, so that a revocation takes effect at once.
select id, config, status = 'revoked' as revoked from channel_installation where id = :id;
