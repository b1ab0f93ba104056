-- Installations whose events are posted to us. Any replica takes them, so nothing here asks for a lease.

-- name: find_push_target(id)^
-- record_class: PushTarget
-- Revoked rows too: their events are verified and then dropped with an audit row, like those of a long connection.
select i.id, i.channel_type, i.config, now() as now
from channel_installation i
join workspace w on w.id = i.workspace_id
join agent a on a.id = i.agent_id and a.workspace_id = i.workspace_id
where i.id = :id;

-- name: note_pushed_events(ids)!
-- When an event came is the one thing of a link's state that others than its holder know: only that column is touched.
-- A row that does not exist yet gets the state that such an installation has. Ordered, so that two replicas lock alike.
insert into channel_connection as c (installation_id, state, lease_epoch, last_event_at)
select i.id, 'http', i.lease_epoch, now()
from channel_installation i
where i.id = any(:ids::uuid[]) and i.status = 'active'
order by i.id
on conflict (installation_id) do update set last_event_at = excluded.last_event_at;
