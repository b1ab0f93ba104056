-- Installations whose events the platform posts to this server. Any replica takes them, so no statement here asks for a
-- lease.

-- name: find_push_target(id)^
-- Revoked rows too. Their events are verified and then dropped with an audit row, like those of a long connection.
select i.id, i.channel_type, i.config, now() as now
from channel_installation i
join workspace w on w.id = i.workspace_id
join agent a on a.id = i.agent_id and a.workspace_id = i.workspace_id
where i.id = :id;

-- name: note_pushed_events(ids, asked_again_ids, degraded_seconds)!
-- Stores the time of an event and of a request for redelivery, and changes no column of a link holder. A missing row is
-- created with the state of such an installation. Ordered, so that two replicas lock in the same order.
insert into channel_connection as c (installation_id, state, lease_epoch, last_event_at, degraded_until)
select i.id, 'http', i.lease_epoch, now(),
  case when i.id = any(:asked_again_ids::uuid[]) then now() + make_interval(secs => :degraded_seconds::float8) end
from channel_installation i
where i.id = any(:ids::uuid[]) and i.status = 'active'
order by i.id
on conflict (installation_id) do update
set last_event_at = excluded.last_event_at, degraded_until = greatest(c.degraded_until, excluded.degraded_until);
