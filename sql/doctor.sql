-- The queries of `gateway doctor`: are the bots and runtimes there, and what waits for them.

-- name: list_links()
-- The last stored state of each link, and if its lease is still held. Without a lease the stored state means nothing.
select installation.id, connection.state as stored_state, coalesce(connection.node, '') as node,
  coalesce(installation.ws_lease_expires_at > now(), false) as leased,
  extract(epoch from now() - installation.ws_lease_expires_at)::double precision as over_seconds,
  extract(epoch from now() - connection.last_frame_at)::double precision as unheard_seconds
from channel_installation installation
left join channel_connection connection on connection.installation_id = installation.id
where installation.status = 'active';

-- name: list_runtime_health(silent_seconds)
-- Every runtime with its agents and their tasks. The last row of a workspace stands for its agents without a runtime,
-- if tasks wait for them or if people may write to them. A task counts as waiting from the moment it may be claimed.
with place as (
  select runtime.id, runtime.workspace_id, runtime.name, runtime.last_heartbeat_at from agent_runtime runtime
  union all
  select null, workspace.id, null, null from workspace
), employed as (
  select agent.id, agent.workspace_id, agent.name, runtime.id as runtime_id,
    exists (
      select from channel_installation installation
      where installation.agent_id = agent.id and installation.workspace_id = agent.workspace_id
        and installation.status = 'active'
    ) as has_bot, work.waiting, work.running, work.waiting_since
  from agent
  left join agent_runtime runtime on runtime.id = agent.runtime_id and runtime.workspace_id = agent.workspace_id
  cross join lateral (
    select count(*) filter (where task.status = 'queued' and task.available_at <= now()) as waiting,
      count(*) filter (where task.status <> 'queued') as running,
      min(task.available_at) filter (where task.status = 'queued' and task.available_at <= now()) as waiting_since
    from agent_task task
    where task.agent_id = agent.id and task.status in ('queued', 'dispatched', 'running')
  ) work
  where agent.archived_at is null
)
select place.id, workspace.slug as workspace, place.name, place.last_heartbeat_at,
  extract(epoch from now() - place.last_heartbeat_at)::double precision as unheard_seconds,
  coalesce(place.last_heartbeat_at > now() - make_interval(secs => :silent_seconds), false) as online,
  coalesce(sum(employed.waiting), 0)::bigint as waiting, coalesce(sum(employed.running), 0)::bigint as running,
  extract(epoch from now() - min(employed.waiting_since))::double precision as oldest_waiting_seconds,
  count(*) filter (where employed.has_bot) as bots,
  coalesce(array_agg(employed.name order by employed.name) filter (where employed.id is not null), '{}') as agents
from place
join workspace on workspace.id = place.workspace_id
left join employed on employed.workspace_id = place.workspace_id and employed.runtime_id is not distinct from place.id
  and (place.id is not null or employed.has_bot or employed.waiting > 0)
group by place.id, workspace.id, place.name, place.last_heartbeat_at
having place.id is not null or count(employed.id) > 0
order by workspace.slug, place.name nulls last;

-- name: get_recent_troubles(recent_seconds)^
-- Recent troubles, for an operator who looks for the reason of a missing answer.
select
  (select count(*) from outbound_message where status = 'failed' and created_at > recent.since) as refused,
  (select count(*) from outbound_message where status = 'unknown' and created_at > recent.since) as unknown,
  (select count(*) from agent_task where status = 'failed' and completed_at > recent.since) as failed_runs,
  (select count(*) from autopilot_trigger where enabled) as triggers
from (select now() - make_interval(secs => :recent_seconds) as since) recent;
