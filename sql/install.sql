-- Sessions of bots that are being connected by scanning a code. Only the clock of the database decides what is due.

-- name: add_install_session(id, workspace_id, agent_id, initiator_user_id, region, device_code, interval_seconds, delay_seconds, lifetime_seconds, replaces, vouched, pending_max)!
-- Stored before the code is shown, so that every scan finds its session. Each session is polled, so their number is
-- limited. An expired session may still be pending where no daemon runs, and is not counted.
insert into lark_install_session (id, workspace_id, agent_id, initiator_user_id, region, polled_region, device_code,
  interval_seconds, next_poll_at, deadline, replaces, vouched)
select :id, :workspace_id, :agent_id, :initiator_user_id, :region, :region, :device_code,
  :interval_seconds, now() + make_interval(secs => :delay_seconds::float8),
  now() + make_interval(secs => :lifetime_seconds::float8), :replaces, :vouched
where (
  select count(*) from lark_install_session
  where workspace_id = :workspace_id and status = 'pending' and deadline > now()
) < :pending_max;

-- name: take_install_session(poller, lease_seconds, id)^
-- record_class: ScanInHand
-- Takes a session for one step. Each taking has its own token, so that a slow step whose lease was taken over finds no
-- row to write. `skip locked`: a process that comes second looks for other work.
with due as (
  select id from lark_install_session
  where status = 'pending' and least(next_poll_at, deadline) <= now()
    and (poller_until is null or poller_until <= now())
    and (:id::uuid is null or id = :id::uuid)
  order by next_poll_at
  limit 1
  for update skip locked
)
update lark_install_session s
set poller = :poller, poller_until = now() + make_interval(secs => :lease_seconds::float8)
from due
where s.id = due.id
returning s.id, s.workspace_id, s.agent_id, s.initiator_user_id, s.region, s.polled_region, s.device_code, s.credentials,
  s.interval_seconds, extract(epoch from s.deadline - now())::float8 as seconds_left, s.poller, s.replaces, s.vouched;

-- name: put_back_install_session(id, workspace_id, poller, polled_region, interval_seconds, delay_seconds, problem)!
-- Gives the session back. The first process that comes once it is due may take it.
update lark_install_session
set polled_region = :polled_region, interval_seconds = :interval_seconds,
  next_poll_at = now() + make_interval(secs => :delay_seconds::float8), error_message = :problem,
  poller = null, poller_until = null
where id = :id and workspace_id = :workspace_id and poller = :poller and status = 'pending';

-- name: hold_install_session(id, workspace_id, poller, lease_seconds)!
-- Extends the lease while a step goes on. A lease of zero seconds gives the session back.
update lark_install_session
set poller_until = now() + make_interval(secs => :lease_seconds::float8)
where id = :id and workspace_id = :workspace_id and poller = :poller and status = 'pending';

-- name: grant_install_session(id, workspace_id, poller, credentials, lease_seconds, finish_seconds)!
-- The platform may send the credentials only once. So the step that received them takes the session again, even if
-- another one took it while the database was unreachable. The step may store them twice, when the answer to the first
-- attempt was lost. The deadline is extended if needed, so that the remaining work has its time even after a scan in
-- the last second.
update lark_install_session
set credentials = :credentials, next_poll_at = now(), error_message = '',
  poller = :poller, poller_until = now() + make_interval(secs => :lease_seconds::float8),
  deadline = greatest(deadline, now() + make_interval(secs => :finish_seconds::float8))
where id = :id and workspace_id = :workspace_id and status = 'pending' and (credentials is null or poller = :poller);

-- name: lock_install_session(id, workspace_id, poller)$
-- The first statement of the transaction that stores the bot. The session cannot be taken over until that is decided.
select true from lark_install_session
where id = :id and workspace_id = :workspace_id and poller = :poller and status = 'pending'
for update;

-- name: lock_standing(workspace_id, agent_id, user_id)^
-- record_class: MemberStanding
-- The facts that give the right to connect a bot. The role cannot change until the bot is stored.
select m.role, a.owner_id as agent_owner_id
from member m
join agent a on a.id = :agent_id and a.workspace_id = m.workspace_id
where m.workspace_id = :workspace_id and m.user_id = :user_id
for share of m;

-- name: end_install_session(id, workspace_id, poller, status, error_reason, error_message, installation_id)!
-- The first end counts. The secrets are deleted with it.
update lark_install_session
set status = :status, error_reason = :error_reason::text, error_message = :error_message,
  installation_id = :installation_id::uuid, device_code = null, credentials = null, poller = null, poller_until = null,
  ended_at = now()
where id = :id and workspace_id = :workspace_id and poller = :poller and status = 'pending';

-- name: install_session_status(id, workspace_id, keep_seconds)^
-- record_class: ScanStatus
-- For clients that ask for the outcome, on any process. A session that ended too long ago is not returned, even if it
-- was not purged yet.
select initiator_user_id, status, installation_id, error_reason, error_message,
  extract(epoch from deadline - now())::float8 as seconds_left
from lark_install_session
where id = :id and workspace_id = :workspace_id
  and (ended_at is null or ended_at > now() - make_interval(secs => :keep_seconds::float8));

-- name: seconds_to_next_install()$
-- The time when a process should look again: the next poll or deadline, or the end of a lease that may not be given
-- back.
select extract(epoch from min(greatest(least(next_poll_at, deadline), poller_until)) - now())::float8
from lark_install_session
where status = 'pending';
