-- The log of webhooks: receiving a delivery, storing its outcome, finding it again, and replaying it.

-- name: find_webhook_trigger(token)^
-- Everything that a request is judged by, as of one moment, which the revision identifies. No row for a trigger whose
-- autopilot belongs to another workspace.
select t.id, t.workspace_id, t.autopilot_id, t.provider, t.webhook_token as token, t.revision,
  t.event_filters::text as event_filters,
  array(select s.id from webhook_signing_secret s where s.trigger_id = t.id order by s.created_at, s.id) as secret_ids,
  array(select s.secret_encrypted from webhook_signing_secret s where s.trigger_id = t.id order by s.created_at, s.id)
    as sealed_secrets,
  array(select s.expires_at from webhook_signing_secret s where s.trigger_id = t.id order by s.created_at, s.id)
    as secret_expiries
from autopilot_trigger t
join autopilot a on a.id = t.autopilot_id and a.workspace_id = t.workspace_id
where t.webhook_token = :token and t.kind = 'webhook' and t.webhook_token is not null;

-- name: token_digests(after, rows_max)
-- Digests of all addresses, a page at a time. They are enough to tell a guessed address from one that may exist.
select id, substring(sha256(convert_to(webhook_token, 'UTF8')) for 8) as digest
from autopilot_trigger
where id > :after and kind = 'webhook' and webhook_token is not null
order by id
limit :rows_max;

-- name: record_deliveries(ids, trigger_ids, tokens, revisions, events, dedupe_keys, dedupe_sources, signatures, secret_ids, verdicts, reasons, errors, headers, content_types, bodies, response_statuses, response_bodies, times, waits, finish_seconds)
-- One statement for all requests that wait together, so that they share one commit. A request that was judged by an
-- older revision of its trigger, or whose trigger is gone, gets no row back and is judged again. The statement itself
-- reads if the trigger and its autopilot are on, and does not rely on a cached state. A delivery that exists already is
-- only counted, and its row is returned instead: the unique index decides between requests that come at once. A
-- delivery beyond the pace of its trigger gets the last place of the queue of that trigger. So does one that would
-- overtake others in that queue.
with given as (
  select *
  from unnest(:ids::uuid[], :trigger_ids::uuid[], :tokens::text[], :revisions::bigint[], :events::text[],
    :dedupe_keys::text[], :dedupe_sources::text[], :signatures::text[], :secret_ids::uuid[], :verdicts::text[],
    :reasons::text[], :errors::text[], :headers::text[], :content_types::text[], :bodies::bytea[],
    :response_statuses::integer[], :response_bodies::text[], :times::integer[], :waits::boolean[])
    with ordinality
    as g (id, trigger_id, token, revision, event, dedupe_key, dedupe_source, signature, secret_id, verdict, reason, error,
      headers, content_type, body, response_status, response_body, times, waits, place)
), judged as (
  select g.*, t.workspace_id, t.autopilot_id, t.provider,
    case
      when g.verdict = 'rejected' then g.reason
      when not t.enabled then 'trigger_disabled'
      when a.status = 'archived' then 'autopilot_archived'
      when a.status <> 'active' then 'autopilot_paused'
      else g.reason
    end as decided
  from given g
  join autopilot_trigger t on t.id = g.trigger_id and t.revision = g.revision and t.webhook_token = g.token
    and t.kind = 'webhook'
  join autopilot a on a.id = t.autopilot_id and a.workspace_id = t.workspace_id
), placed as (
  select j.*, case when j.verdict = 'rejected' then 'rejected' when j.decided is null then 'queued' else 'ignored' end as status
  from judged j
  order by j.place
), ready as (
  select p.*, case when p.status = 'queued' and p.signature = 'valid' and (p.waits or exists (
    select from webhook_delivery w where w.trigger_id = p.trigger_id and w.status = 'queued' and w.turn is not null))
    then nextval('webhook_delivery_turn') end as turn
  from placed p
), recorded as (
  insert into webhook_delivery as d
    (id, workspace_id, autopilot_id, trigger_id, provider, event, dedupe_key, dedupe_source, signature_status,
      signing_secret_id, status, reason_code, error, selected_headers, content_type, raw_body, response_status,
      response_body, attempt_count, turn, available_at)
  select r.id, r.workspace_id, r.autopilot_id, r.trigger_id, r.provider, r.event, r.dedupe_key, r.dedupe_source,
    r.signature, r.secret_id, r.status, case when r.turn is null then r.decided else 'paced' end, r.error,
    r.headers::jsonb, r.content_type, r.body,
    case when r.status = 'ignored' or r.turn is not null then 200 else r.response_status end,
    case when r.status = 'ignored' then json_strip_nulls(json_build_object('status', 'ignored', 'delivery_id', r.id,
        'reason', r.decided, 'event', case r.decided when 'event_filtered' then r.event end))::text
      when r.turn is not null then json_build_object('status', 'queued', 'delivery_id', r.id)::text
      else r.response_body end, r.times, r.turn,
    now() + case when r.turn is null then make_interval(secs => :finish_seconds) else interval '0' end
  from ready r
  on conflict (trigger_id, dedupe_key) where dedupe_key is not null and status not in ('rejected', 'failed')
    do update set attempt_count = d.attempt_count + excluded.attempt_count, last_attempt_at = now()
  returning d.id, d.autopilot_id, d.trigger_id, d.dedupe_key, d.status, d.reason_code, d.autopilot_run_id, d.received_at,
    d.turn
)
select r.id as request_id, d.id, d.autopilot_id, d.trigger_id, d.status, d.reason_code, d.autopilot_run_id, d.received_at,
  d.status = 'queued' and d.turn is not null as waits
from ready r
join recorded d on d.id = r.id
  or (r.status <> 'rejected' and d.status not in ('rejected', 'failed') and d.trigger_id = r.trigger_id
    and d.dedupe_key = r.dedupe_key);

-- name: record_limited(ids, trigger_ids, events, headers, content_types, times)!
-- Requests that were refused because of a limit: one row for each trigger and minute counts them, for all processes.
-- In the order of the ids, so that two processes that count in the same rows do not wait for each other.
insert into webhook_delivery as d (id, workspace_id, autopilot_id, trigger_id, provider, event, status, reason_code, error,
  selected_headers, content_type, response_status, attempt_count)
select g.id, t.workspace_id, t.autopilot_id, t.id, t.provider, g.event, 'rejected', 'rate_limited',
  'refused unread, as were its repeats within the minute', g.headers::jsonb, g.content_type, 429, g.times
from unnest(:ids::uuid[], :trigger_ids::uuid[], :events::text[], :headers::text[], :content_types::text[],
  :times::integer[]) as g (id, trigger_id, event, headers, content_type, times)
join autopilot_trigger t on t.id = g.trigger_id
order by g.id
on conflict (id) do update set attempt_count = d.attempt_count + excluded.attempt_count, last_attempt_at = now();

-- name: ignore_delivery(delivery_id, reason)!
-- Its trigger or autopilot was turned off between receipt and dispatch. Only a delivery without an outcome is changed.
-- One that has waited for its turn was answered long ago.
update webhook_delivery d
set status = 'ignored', reason_code = :reason::text, last_attempt_at = now(), response_status = 200,
  response_body = coalesce(d.response_body,
    json_build_object('status', 'ignored', 'delivery_id', d.id, 'reason', :reason::text)::text)
where d.id = :delivery_id and d.status = 'queued';

-- name: fail_delivery(delivery_id, error)!
-- Only a delivery without an outcome is changed. A run that was committed while its answer got lost has settled the row
-- already, and one that is being committed holds its lock. The row of a failed delivery no longer blocks the next
-- attempt.
update webhook_delivery
set status = 'failed', reason_code = 'dispatch_failed', error = :error, last_attempt_at = now(),
  response_status = coalesce(response_status, 500),
  response_body = coalesce(response_body,
    json_build_object('status', 'failed', 'delivery_id', id, 'code', 'dispatch_failed')::text),
  dispatch_attempts = greatest(dispatch_attempts, 1)
where id = :delivery_id and status = 'queued';

-- name: delivery_verdict(delivery_id)^
-- The outcome of a delivery that another process has decided.
select d.id, d.autopilot_id, d.trigger_id, d.status, d.reason_code, d.autopilot_run_id, r.status = 'skipped' as skipped,
  r.failure_reason as skip_reason
from webhook_delivery d
left join autopilot_run r on r.id = d.autopilot_run_id
where d.id = :delivery_id;

-- name: claim_stale_deliveries(finish_seconds, rows_max)
-- Deliveries that a process received and did not finish, except those that wait for their turn. Each claim postpones
-- the next one, twice as far each time, so that a row which always fails is not tried in a loop. Replicas skip the rows
-- that another one is claiming.
update webhook_delivery d
set dispatch_attempts = d.dispatch_attempts + 1,
  available_at = now() + make_interval(secs => :finish_seconds * power(2, least(d.dispatch_attempts, 6)))
where d.id in (
  select id from webhook_delivery
  where status = 'queued' and source = 'autopilot' and turn is null and available_at <= now()
  order by available_at
  limit :rows_max
  for update skip locked
)
returning d.id, d.workspace_id, d.autopilot_id, d.trigger_id, d.provider, d.event, d.signature_status, d.status, d.selected_headers,
  d.content_type, d.raw_body, d.received_at, d.replayed_from_delivery_id, d.dispatch_attempts;

-- name: waiting_triggers(triggers_max)
-- The triggers at which deliveries wait. A queue may be long, so the recursion uses the index to step from one trigger
-- to the next.
with recursive waiting as (
  (select trigger_id from webhook_delivery where status = 'queued' and turn is not null order by trigger_id limit 1)
  union all
  select (select d.trigger_id from webhook_delivery d
    where d.status = 'queued' and d.turn is not null and d.trigger_id > w.trigger_id order by d.trigger_id limit 1)
  from waiting w where w.trigger_id is not null
)
select trigger_id from waiting where trigger_id is not null limit :triggers_max;

-- name: claim_turn(trigger_id, finish_seconds)^
-- The first delivery of a queue only. While a process is working on it, or has just been killed at it, the others wait.
-- A second process waits for the commit of the first, and then finds the row postponed.
update webhook_delivery d
set dispatch_attempts = d.dispatch_attempts + 1, available_at = now() + make_interval(secs => :finish_seconds)
where d.available_at <= now() and d.id = (
  select id from webhook_delivery
  where trigger_id = :trigger_id and status = 'queued' and turn is not null
  order by turn
  limit 1
  for no key update
)
returning d.id, d.workspace_id, d.autopilot_id, d.trigger_id, d.provider, d.event, d.signature_status, d.status, d.selected_headers,
  d.content_type, d.raw_body, d.received_at, d.replayed_from_delivery_id, d.dispatch_attempts;

-- name: leave_queue(delivery_id)!
-- This delivery could not be begun, but those behind it can. It leaves the queue, and is tried again from time to time.
update webhook_delivery set turn = null, reason_code = null where id = :delivery_id and status = 'queued';

-- name: find_stored_delivery(autopilot_id, delivery_id)^
-- The columns that a replay needs.
select id, workspace_id, autopilot_id, trigger_id, provider, event, signature_status, status, selected_headers, content_type,
  raw_body, received_at, replayed_from_delivery_id, dispatch_attempts
from webhook_delivery
where autopilot_id = :autopilot_id and id = :delivery_id;

-- name: trigger_state(autopilot_id, trigger_id)^
-- Tells if a replay could start a run.
select t.enabled, a.status as autopilot_status
from autopilot_trigger t
join autopilot a on a.id = t.autopilot_id
where t.autopilot_id = :autopilot_id and t.id = :trigger_id;

-- name: record_replay(id, original_id, idempotency_key, finish_seconds)^
-- A new row without a deduplication key. The same idempotency key finds the replay that it made before.
insert into webhook_delivery as d
  (id, workspace_id, autopilot_id, trigger_id, provider, event, signature_status, selected_headers, content_type, raw_body,
    replayed_from_delivery_id, replay_idempotency_key, available_at)
select :id, o.workspace_id, o.autopilot_id, o.trigger_id, o.provider, o.event, 'not_required', o.selected_headers,
  o.content_type, o.raw_body, o.id, :idempotency_key::text, now() + make_interval(secs => :finish_seconds)
from webhook_delivery o
where o.id = :original_id
on conflict (replayed_from_delivery_id, replay_idempotency_key) where replay_idempotency_key is not null
  do update set replay_idempotency_key = excluded.replay_idempotency_key
returning :id as request_id, d.id, d.autopilot_id, d.trigger_id, d.status, d.reason_code, d.autopilot_run_id, d.received_at,
  false as waits;

-- name: list_deliveries(autopilot_id, event, row_limit, row_offset)
-- The newest first, without the large columns. An index in the order of the page serves it.
select line.*
from webhook_delivery_line line
where autopilot_id = :autopilot_id and (:event::text is null or event = :event::text)
order by created_at desc, id desc
limit :row_limit offset :row_offset;

-- name: list_deliveries_by_status(autopilot_id, status, event, row_limit, row_offset)
-- A separate statement, because a rare status has an index of its own, and only that index has this order. If the
-- status were an ordinary parameter, the planner might search every row for it.
select line.*
from webhook_delivery_line line
where autopilot_id = :autopilot_id and status between :status and :status and (:event::text is null or event = :event::text)
order by status, created_at desc, id desc
limit :row_limit offset :row_offset;

-- name: search_deliveries(autopilot_id, words, status, event, row_limit, row_offset)
-- By the words of the body. The rows are found by their words first, and sorted then. The other way round, every row
-- would be searched for a rare word. OFFSET 0 keeps the planner from doing that.
select line.*
from webhook_delivery_line line
where id in (
  select found.id
  from (
    select d.id, d.created_at
    from webhook_delivery d
    where d.search @@ :words::tsquery and d.autopilot_id = :autopilot_id
      and (:status::text is null or d.status = :status::text) and (:event::text is null or d.event = :event::text)
    offset 0
  ) as found
  order by found.created_at desc, found.id desc
  limit :row_limit offset :row_offset
)
order by created_at desc, id desc;

-- name: count_deliveries(workspace_id, autopilot_id, status)$
-- Summed from the differences in webhook_tally: see that table. A null autopilot stands for the whole workspace.
select coalesce(sum(rows), 0)::bigint
from webhook_tally
where workspace_id = :workspace_id and (:autopilot_id::uuid is null or autopilot_id = :autopilot_id::uuid)
  and (:status::text is null or status = :status::text);

-- name: count_found_deliveries(workspace_id, autopilot_id, status, event)$
-- The tally has no counts by event, so the rows are counted. A null autopilot stands for the whole workspace.
select count(*)
from webhook_delivery
where workspace_id = :workspace_id and (:autopilot_id::uuid is null or autopilot_id = :autopilot_id::uuid)
  and (:status::text is null or status = :status::text) and (:event::text is null or event = :event::text);

-- name: count_searched_deliveries(workspace_id, autopilot_id, words, status, event)$
-- Separate from the count without words. With words that may be null, the planner could not use their index.
select count(*)
from webhook_delivery
where search @@ :words::tsquery and workspace_id = :workspace_id
  and (:autopilot_id::uuid is null or autopilot_id = :autopilot_id::uuid)
  and (:status::text is null or status = :status::text) and (:event::text is null or event = :event::text);

-- name: list_workspace_deliveries(workspace_id, status, event, row_limit, row_offset)
-- Of all autopilots, and of GitHub App hooks.
select line.*
from webhook_delivery_line line
where workspace_id = :workspace_id and (:status::text is null or status = :status::text)
  and (:event::text is null or event = :event::text)
order by created_at desc, id desc
limit :row_limit offset :row_offset;

-- name: search_workspace_deliveries(workspace_id, words, status, event, row_limit, row_offset)
-- Like search_deliveries, for a whole workspace.
select line.*
from webhook_delivery_line line
where id in (
  select found.id
  from (
    select d.id, d.created_at
    from webhook_delivery d
    where d.search @@ :words::tsquery and d.workspace_id = :workspace_id
      and (:status::text is null or d.status = :status::text) and (:event::text is null or d.event = :event::text)
    offset 0
  ) as found
  order by found.created_at desc, found.id desc
  limit :row_limit offset :row_offset
)
order by created_at desc, id desc;

-- name: search_query(text)$
-- The words of a search, split by the rule that splits bodies. Each matches as the beginning of a word. A text without
-- words finds no row.
select coalesce(string_agg('''' || term || ''':*', ' & '), '')
from unnest(tsvector_to_array(webhook_words(convert_to(:text, 'UTF8')))) as term;

-- name: find_delivery(autopilot_id, delivery_id)^
-- No row for a delivery of another autopilot.
select line.*, large.selected_headers, large.raw_body, large.response_body
from webhook_delivery_line line
join webhook_delivery large on large.id = line.id
where line.autopilot_id = :autopilot_id and line.id = :delivery_id;

-- name: fold_tally(rows_max)!
-- Turns the differences of each count into one row again. A sum that is read at the same time sees the state either
-- before or after.
with folded as (
  delete from webhook_tally
  where ctid = any (array(select ctid from webhook_tally limit :rows_max for update skip locked))
  returning workspace_id, autopilot_id, status, rows
)
insert into webhook_tally (workspace_id, autopilot_id, status, rows)
select workspace_id, autopilot_id, status, sum(rows)
from folded
group by workspace_id, autopilot_id, status
having sum(rows) <> 0;

-- name: tally_rows()$
-- Tells if there is enough to fold. One row for each count needs no folding.
select count(*) from webhook_tally;

-- name: plan_replay(autopilot_id, status, event, words, since, until)$
-- Counts the deliveries that a bulk replay would go through.
select count(*) from replayable_deliveries(:autopilot_id, :status, :event, :words, :since, :until);

-- name: add_bulk_replay(id, workspace_id, autopilot_id, user_id, filter, budget, planned)^
-- From here on any process may carry it out.
insert into webhook_replay (id, workspace_id, autopilot_id, created_by_id, filter, budget, planned)
values (:id, :workspace_id, :autopilot_id, :user_id, :filter::jsonb, :budget, :planned)
returning id, autopilot_id, filter, budget, planned, status, accepted, skipped, failed, created_at, finished_at;

-- name: find_bulk_replay(autopilot_id, replay_id)^
-- The progress of a bulk replay.
select id, autopilot_id, filter, budget, planned, status, accepted, skipped, failed, created_at, finished_at
from webhook_replay
where autopilot_id = :autopilot_id and id = :replay_id;

-- name: cancel_bulk_replay(autopilot_id, replay_id)!
-- The process that carries it out notices this with the next delivery. Deliveries that were replayed by then stay.
update webhook_replay set status = 'cancelled', finished_at = now()
where autopilot_id = :autopilot_id and id = :replay_id and status = 'running';

-- name: claim_bulk_replay(token, lease_seconds)^
-- The bulk replay that has waited longest, for one process at a time. If its lease is not renewed, another process may
-- claim it.
update webhook_replay
set leased_until = now() + make_interval(secs => :lease_seconds), lease_token = :token
where id = (
  select id from webhook_replay
  where status = 'running' and leased_until <= now()
  order by leased_until, id
  limit 1
  for update skip locked
)
returning id, autopilot_id, filter, planned, accepted + skipped + failed as done, until_at, cursor_at, cursor_id;

-- name: next_replayed(autopilot_id, status, event, words, since, until, until_at, cursor_at, cursor_id)^
-- The oldest first, so that runs begin in the order of their deliveries. Deliveries that came after the plan, its own
-- replays among them, are left out.
select id, created_at
from replayable_deliveries(:autopilot_id, :status, :event, :words, :since, :until)
where created_at < :until_at and (created_at, id) > (:cursor_at, :cursor_id)
order by created_at, id
limit 1;

-- name: advance_bulk_replay(replay_id, token, cursor_at, cursor_id, accepted, skipped, failed, lease_seconds)!
-- Fenced by the token. Zero rows mean that it was cancelled, or that another process carries it out now.
update webhook_replay
set cursor_at = :cursor_at, cursor_id = :cursor_id, accepted = accepted + :accepted, skipped = skipped + :skipped,
  failed = failed + :failed, leased_until = now() + make_interval(secs => :lease_seconds)
where id = :replay_id and lease_token = :token and status = 'running';

-- name: complete_bulk_replay(replay_id, token)!
-- No delivery is left, or the budget is spent.
update webhook_replay set status = 'completed', finished_at = now()
where id = :replay_id and lease_token = :token and status = 'running';
