-- The outbox: the messages to a platform, sent only by the holder of the lease of their bot.

-- name: take_due_rows(installation_id, lease_epoch, busy, typing_seconds, rows_max)
-- Takes the first open row of each recipient, if it is due, and later rows wait for it. A row in `sending` that is not
-- `busy` is not being sent: a former holder left it, or storing its outcome failed. A holder whose lease has passed on
-- takes nothing. first_attempt_at is the first attempt with an unknown result. The rows of a run that has ended wait
-- for its typing sign to be removed.
with head as (
  select distinct on (outgoing.recipient_type, outgoing.recipient_id)
    outgoing.id, outgoing.seq, outgoing.status, outgoing.available_at, outgoing.first_attempt_at,
    outgoing.last_attempt_at
  from outbound_message outgoing
  where outgoing.installation_id = :installation_id and outgoing.status in ('queued', 'sending')
  order by outgoing.recipient_type, outgoing.recipient_id, outgoing.seq
), due as (
  select head.id, head.first_attempt_at, head.last_attempt_at
  from head
  join outbound_message outgoing on outgoing.id = head.id
  where (head.status = 'sending' or head.available_at <= now())
    and outgoing.recipient_type || ':' || outgoing.recipient_id <> all(:busy::text[])
    and coalesce(outgoing.lease_epoch, 0) <= :lease_epoch
    and exists (
      select from channel_installation installation
      where installation.id = :installation_id and installation.lease_epoch = :lease_epoch
    )
    and not exists (select from held_for_typing(outgoing.task_id, outgoing.created_at, :typing_seconds))
  order by head.seq
  limit :rows_max
  for no key update of outgoing
)
update outbound_message outgoing
set status = 'sending', attempts = outgoing.attempts + 1, lease_epoch = :lease_epoch, last_attempt_at = now(),
  first_attempt_at = coalesce(outgoing.first_attempt_at, now())
from due
where outgoing.id = due.id and outgoing.status in ('queued', 'sending')
returning outgoing.id, outgoing.kind, outgoing.recipient_type, outgoing.recipient_id, outgoing.thread_id,
  outgoing.reply_to_message_id, outgoing.title, outgoing.content, outgoing.uuid, outgoing.attempts, due.first_attempt_at,
  extract(epoch from now() - due.first_attempt_at)::double precision as doubt_seconds,
  coalesce(extract(epoch from now() - due.last_attempt_at), 0)::double precision as idle_seconds,
  extract(epoch from now() - outgoing.created_at)::double precision as age_seconds;

-- name: seconds_to_next_row(installation_id, lease_epoch, busy, typing_seconds)$
-- A `sending` row that is not in flight is due at once. A row that waits for a typing sign is due when
-- that wait ends.
select extract(epoch from min(greatest(case head.status when 'queued' then head.available_at else now() end, (
    select held.until from held_for_typing(head.task_id, head.created_at, :typing_seconds) as held (until)
  ))) - clock_timestamp())::double precision
from (
  select distinct on (outgoing.recipient_type, outgoing.recipient_id)
    outgoing.recipient_type || ':' || outgoing.recipient_id as recipient, outgoing.status, outgoing.available_at,
    outgoing.lease_epoch, outgoing.task_id, outgoing.created_at
  from outbound_message outgoing
  where outgoing.installation_id = :installation_id and outgoing.status in ('queued', 'sending')
  order by outgoing.recipient_type, outgoing.recipient_id, outgoing.seq
) head
where head.recipient <> all(:busy::text[]) and coalesce(head.lease_epoch, 0) <= :lease_epoch
  and exists (
    select from channel_installation installation
    where installation.id = :installation_id and installation.lease_epoch = :lease_epoch
  );

-- name: mark_row_sent(id, lease_epoch, channel_message_id)!
-- Fenced. Zero rows when another holder has taken the row over, who then marks it.
update outbound_message
set status = 'sent', sent_at = now(), channel_message_id = :channel_message_id, error_code = null, error = null
where id = :id and lease_epoch = :lease_epoch and status = 'sending';

-- name: mark_row_failed(id, lease_epoch, error_code, error, notice_id, words)$
-- Final, and shown as such. The next row of the recipient may go. With `words`, by language, the same chat is told,
-- once for each run however many parts its answer has.
with failed as (
  update outbound_message set status = 'failed', error_code = :error_code, error = :error
  where id = :id and lease_epoch = :lease_epoch and status = 'sending'
  returning workspace_id, installation_id, chat_session_id, task_id, recipient_type, recipient_id, thread_id,
    reply_to_message_id
), told as (
  insert into outbound_message (id, workspace_id, installation_id, chat_session_id, task_id, kind, recipient_type,
    recipient_id, thread_id, reply_to_message_id, content, uuid)
  select :notice_id::uuid, failed.workspace_id, failed.installation_id, failed.chat_session_id, failed.task_id, 'notice',
    failed.recipient_type, failed.recipient_id, failed.thread_id, failed.reply_to_message_id,
    coalesce(:words::jsonb ->> workspace.language, :words::jsonb ->> 'en'), :notice_id::text
  from failed
  join workspace on workspace.id = failed.workspace_id
  where :words::jsonb is not null and failed.task_id is not null
  on conflict (task_id, kind, part) where task_id is not null do nothing
)
select count(*) from failed;

-- name: postpone_row(id, lease_epoch, delay_seconds, error_code, error, doubtful)!
-- An attempt that certainly sent nothing does not start the time for which the platform honours the key.
update outbound_message
set status = 'queued', available_at = now() + make_interval(secs => :delay_seconds), error_code = :error_code,
  error = :error, first_attempt_at = case when :doubtful then first_attempt_at end
where id = :id and lease_epoch = :lease_epoch and status = 'sending';

-- name: mark_row_unknown(id, lease_epoch, error_code, error)!
-- The platform forgets an idempotency key after a time, so sending again could make a second message. Nothing is sent,
-- the row is shown, and a person decides.
update outbound_message set status = 'unknown', error_code = :error_code, error = :error
where id = :id and lease_epoch = :lease_epoch and status = 'sending';

-- name: clear_row_doubt(id, lease_epoch)!
-- The chat was read, and the message is not there.
update outbound_message set status = 'queued', available_at = now(), first_attempt_at = null
where id = :id and lease_epoch = :lease_epoch and status = 'sending';

-- name: list_sent_to_recipient(id, clocks_seconds)
-- These messages are distinguished from the row in doubt, because their text may be the same. The clocks of the
-- database and of the platform may differ, so the comparison allows for `clocks_seconds`.
select other.channel_message_id
from outbound_message doubtful
join outbound_message other on other.installation_id = doubtful.installation_id
  and other.recipient_type = doubtful.recipient_type and other.recipient_id = doubtful.recipient_id
where doubtful.id = :id and other.status = 'sent' and other.channel_message_id is not null
  and other.sent_at >= doubtful.first_attempt_at - make_interval(secs => :clocks_seconds)
order by other.seq desc
limit 500;
