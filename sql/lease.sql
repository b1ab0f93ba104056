-- Leases, and the connection state that only a lease holder may write. Only the clock of the database decides which
-- leases have expired.

-- name: list_active(channel_types)
-- record_class: ActiveInstallation
-- There are no foreign keys here. The joins leave out rows whose workspace or agent is gone, so that they are not
-- served.
select i.id, i.workspace_id, i.agent_id, i.channel_type, i.config,
  case when i.ws_lease_token is not null and i.ws_lease_expires_at > now()
    then extract(epoch from i.ws_lease_expires_at - now())::float8 end as lease_seconds
from channel_installation i
join workspace w on w.id = i.workspace_id
join agent a on a.id = i.agent_id and a.workspace_id = i.workspace_id
where i.status = 'active' and i.channel_type = any(:channel_types::text[])
order by i.created_at, i.id;

-- name: acquire(installation_id, token, ttl_seconds)^
-- Compare and set. The outer select sees the row as it was before the update, so the expiry it returns is that of the
-- other holder. A caller that loses a race has waited for the row lock of the winner, and may still read that the lease
-- is free.
with taken as (
  update channel_installation
  set ws_lease_token = :token, ws_lease_expires_at = now() + make_interval(secs => :ttl_seconds::float8),
    lease_epoch = lease_epoch + 1
  where id = :installation_id and status = 'active'
    and (ws_lease_token is null or ws_lease_expires_at is null or ws_lease_expires_at <= now()
      or ws_lease_token = :token)
  returning id, lease_epoch
)
select taken.lease_epoch as epoch, i.status = 'active' as active,
  coalesce(extract(epoch from i.ws_lease_expires_at - now())::float8, 0) as seconds_left
from channel_installation i
left join taken on taken.id = i.id
where i.id = :installation_id;

-- name: acquire_together(installation_ids, tokens, ttls_seconds)
-- Like `acquire`, for all calls that wait together. Thousands do when a process starts, and with one commit each the
-- last ones would time out. It takes only free leases. For a lease that is held, or whose row is locked, `acquire`
-- gives each caller its answer.
with asking as (
  select a.* from unnest(:installation_ids::uuid[], :tokens::text[], :ttls_seconds::float8[]) as a(id, token, ttl)
), free as (
  select i.id, a.token, a.ttl
  from channel_installation i
  join asking a on a.id = i.id
  where i.status = 'active'
    and (i.ws_lease_token is null or i.ws_lease_expires_at is null or i.ws_lease_expires_at <= now()
      or i.ws_lease_token = a.token)
  for no key update of i skip locked
)
update channel_installation i
set ws_lease_token = free.token, ws_lease_expires_at = now() + make_interval(secs => free.ttl),
  lease_epoch = lease_epoch + 1
from free
where i.id = free.id
returning i.id, free.token, i.lease_epoch;

-- name: renew(installation_ids, tokens, epochs, ttl_seconds)
-- Renews every lease of a process in one statement. With `skip locked`, one row in a long transaction of another
-- session cannot cost all the others their lease. Such a row is returned as neither renewed nor lost, and is asked for
-- again.
with held as (
  select h.id, h.token, h.epoch
  from unnest(:installation_ids::uuid[], :tokens::text[], :epochs::bigint[]) as h(id, token, epoch)
), mine as (
  select i.id
  from channel_installation i
  join held h on h.id = i.id and h.token = i.ws_lease_token and h.epoch = i.lease_epoch
  where i.status = 'active'
), lockable as (
  select i.id
  from channel_installation i
  join held h on h.id = i.id and h.token = i.ws_lease_token and h.epoch = i.lease_epoch
  where i.status = 'active'
  for no key update of i skip locked
), renewed as (
  update channel_installation i
  set ws_lease_expires_at = now() + make_interval(secs => :ttl_seconds::float8)
  from lockable
  where i.id = lockable.id
  returning i.id
)
select h.id, renewed.id is not null as confirmed, mine.id is null as lost
from held h
left join mine on mine.id = h.id
left join renewed on renewed.id = h.id;

-- name: release(installation_id, token, epoch, state, code, detail, last_frame_at, last_event_at, pong_ms)$
-- Advances the epoch too, so that writes which the tenure still has under way cannot take effect after its end. A
-- revoked row is released like any other, and its state says that it is revoked.
with released as (
  update channel_installation
  set ws_lease_token = null, ws_lease_expires_at = null, lease_epoch = lease_epoch + 1
  where id = :installation_id and ws_lease_token = :token
    and (:epoch::bigint is null or lease_epoch = :epoch::bigint)
  returning id, status, lease_epoch
), noted as (
  insert into channel_connection as c (installation_id, state, code, detail, node, lease_epoch,
    last_frame_at, last_event_at, pong_ms, updated_at)
  select id, case when status = 'revoked' then 'revoked' else :state::text end, :code::bigint, :detail::text, '',
    lease_epoch, :last_frame_at::timestamptz, :last_event_at::timestamptz, :pong_ms::float8, now()
  from released
  on conflict (installation_id) do update
  set state = excluded.state, code = excluded.code, detail = excluded.detail, node = excluded.node,
    lease_epoch = excluded.lease_epoch, last_frame_at = coalesce(excluded.last_frame_at, c.last_frame_at),
    last_event_at = coalesce(excluded.last_event_at, c.last_event_at), pong_ms = excluded.pong_ms, updated_at = now()
  where c.lease_epoch <= excluded.lease_epoch
)
select pg_notify('gateway_lease', id::text)::text is not null as told from released;

-- name: release_together(installation_ids, tokens, epochs, states, codes, details, last_frames, last_events, pongs)
-- Like `release`, for all tenures that end together. Thousands do when a process shuts down, and with one commit each
-- they would outlast the drain. With `skip locked`, one row in a long transaction of another session does not delay the
-- others. It is left to `release`, which waits. Ordered like `record`, which locks the same rows.
with ending as (
  select e.* from unnest(:installation_ids::uuid[], :tokens::text[], :epochs::bigint[], :states::text[],
    :codes::bigint[], :details::text[], :last_frames::timestamptz[], :last_events::timestamptz[], :pongs::float8[])
    as e(id, token, epoch, state, code, detail, last_frame_at, last_event_at, pong_ms)
), lockable as (
  select i.id, e.token
  from channel_installation i
  join ending e on e.id = i.id and e.token = i.ws_lease_token and (e.epoch is null or e.epoch = i.lease_epoch)
  for no key update of i skip locked
), released as (
  update channel_installation i
  set ws_lease_token = null, ws_lease_expires_at = null, lease_epoch = lease_epoch + 1
  from lockable
  where i.id = lockable.id
  returning i.id, lockable.token, i.status, i.lease_epoch
), noted as (
  insert into channel_connection as c (installation_id, state, code, detail, node, lease_epoch,
    last_frame_at, last_event_at, pong_ms, updated_at)
  select r.id, case when r.status = 'revoked' then 'revoked' else e.state end, e.code, e.detail, '',
    r.lease_epoch, e.last_frame_at, e.last_event_at, e.pong_ms, now()
  from released r
  join ending e on e.id = r.id and e.token = r.token
  order by r.id
  on conflict (installation_id) do update
  set state = excluded.state, code = excluded.code, detail = excluded.detail, node = excluded.node,
    lease_epoch = excluded.lease_epoch, last_frame_at = coalesce(excluded.last_frame_at, c.last_frame_at),
    last_event_at = coalesce(excluded.last_event_at, c.last_event_at), pong_ms = excluded.pong_ms, updated_at = now()
  where c.lease_epoch <= excluded.lease_epoch
)
select id, token, pg_notify('gateway_lease', id::text)::text is not null as told from released;

-- name: record(node, installation_ids, tokens, epochs, states, codes, details, last_frames, last_events, pongs, degraded_seconds)!
-- The join drops tenures that have ended, and the epochs settle a race with a tenure that ends or begins meanwhile.
-- Ordered, so that two statements over the same rows lock them in the same order. A link counts as degraded until its
-- time is over, even if another process holds it by then.
insert into channel_connection as c (installation_id, state, code, detail, node, lease_epoch,
  last_frame_at, last_event_at, pong_ms, degraded_until, updated_at)
select r.id, r.state, r.code, r.detail, :node::text, r.epoch, r.last_frame_at, r.last_event_at, r.pong_ms,
  case when r.degraded_seconds > 0 then now() + make_interval(secs => r.degraded_seconds) end, now()
from unnest(:installation_ids::uuid[], :tokens::text[], :epochs::bigint[], :states::text[], :codes::bigint[],
    :details::text[], :last_frames::timestamptz[], :last_events::timestamptz[], :pongs::float8[],
    :degraded_seconds::float8[])
  as r(id, token, epoch, state, code, detail, last_frame_at, last_event_at, pong_ms, degraded_seconds)
join channel_installation i on i.id = r.id and i.ws_lease_token = r.token and i.lease_epoch = r.epoch
order by r.id
on conflict (installation_id) do update
set state = excluded.state, code = excluded.code, detail = excluded.detail, node = excluded.node,
  lease_epoch = excluded.lease_epoch, last_frame_at = coalesce(excluded.last_frame_at, c.last_frame_at),
  last_event_at = coalesce(excluded.last_event_at, c.last_event_at), pong_ms = excluded.pong_ms,
  degraded_until = greatest(c.degraded_until, excluded.degraded_until), updated_at = now()
where c.lease_epoch <= excluded.lease_epoch;

-- name: mark(installation_id, state, detail)!
-- For states that can be stored without the lease, and only while the lease is free. A holder knows the state better.
insert into channel_connection as c (installation_id, state, code, detail, node, lease_epoch, updated_at)
select i.id, :state::text, 0, :detail::text, '', i.lease_epoch, now()
from channel_installation i
where i.id = :installation_id
  and (i.ws_lease_token is null or i.ws_lease_expires_at is null or i.ws_lease_expires_at <= now())
  and (i.status = 'revoked') = (:state::text = 'revoked')
on conflict (installation_id) do update
set state = excluded.state, code = 0, detail = excluded.detail, node = '', lease_epoch = excluded.lease_epoch,
  pong_ms = null, updated_at = now()
where c.lease_epoch <= excluded.lease_epoch;
