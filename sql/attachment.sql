-- Files that people send, from their announcement in a message to the stored file. Every process fetches files, and
-- each skips the rows that another one is taking.

-- name: take_attachments(rows_max)
-- record_class: StoredAttachment
-- Takes the pending files that a run waits for, the most urgent first. A row that was taken but not held for 15 seconds
-- is taken again, because the process that took it has died.
with due as (
  select id
  from chat_attachment
  where status = 'pending' and deadline_at > now()
    and (taken_at is null or taken_at < now() - interval '15 seconds')
  order by deadline_at, chat_message_id, n
  limit :rows_max
  for update skip locked
)
update chat_attachment attachment
set taken_at = now()
from due
where attachment.id = due.id
returning attachment.id, attachment.chat_message_id as message_id, attachment.n, attachment.installation_id,
  attachment.channel_message_id, attachment.channel_key, attachment.kind, attachment.name, attachment.mime_type,
  attachment.bytes, attachment.status, attachment.error,
  extract(epoch from attachment.deadline_at - now())::double precision as seconds_left,
  coalesce(
    (select channel_type from channel_installation where id = attachment.installation_id), ''
  ) as channel_type;

-- name: hold_attachment(id)!
-- The process that fetches a file repeats this every few seconds. The file of a crashed process is then taken again
-- before its deadline.
update chat_attachment set taken_at = now() where id = :id and status = 'pending';

-- name: release_attachment(id)!
-- A process that stops in the middle gives the file back, so that another one can take it at once.
with told as (
  select pg_notify('gateway_attachment', '')
)
update chat_attachment set taken_at = null
where id = :id and status = 'pending' and (select count(*) from told) >= 0;

-- name: settle_fetched(id, name, mime_type, bytes)$
-- Wakes the runtime of the waiting run after each file. Two files that are settled at the same moment could not see
-- each other, so neither would know that it is the last one. Also used for a file that is fetched a second time because
-- its copy is no longer on disk.
with settled as (
  update chat_attachment
  set status = 'ready', error = null, name = :name, mime_type = :mime_type, bytes = :bytes, fetched_at = now(),
    taken_at = null
  where id = :id
  returning chat_session_id, issue_id
), waiting as (
  select task.agent_id
  from settled
  join agent_task task on task.chat_session_id = settled.chat_session_id and task.status = 'queued' and task.kind = 'chat'
  union
  select task.agent_id
  from settled
  join agent_task task on task.issue_id = settled.issue_id and task.status = 'queued' and task.kind = 'issue'
), told as (
  select pg_notify('gateway_task', agent.runtime_id::text)
  from waiting join agent on agent.id = waiting.agent_id
  where agent.runtime_id is not null
)
select count(*) from settled where (select count(*) from told) >= 0;

-- name: settle_failed(id, error, final)$
-- A file that was fetched meanwhile keeps its state. A file whose failure is not final stays pending: no run waits for
-- it any more, and a later request for it has it fetched again. Wakes the runtime like settle_fetched.
with settled as (
  update chat_attachment
  set status = case when :final then 'failed' else status end, error = case when :final then :error end,
    taken_at = null, deadline_at = least(deadline_at, now())
  where id = :id and status = 'pending'
  returning chat_session_id, issue_id
), waiting as (
  select task.agent_id
  from settled
  join agent_task task on task.chat_session_id = settled.chat_session_id and task.status = 'queued' and task.kind = 'chat'
  union
  select task.agent_id
  from settled
  join agent_task task on task.issue_id = settled.issue_id and task.status = 'queued' and task.kind = 'issue'
), told as (
  select pg_notify('gateway_task', agent.runtime_id::text)
  from waiting join agent on agent.id = waiting.agent_id
  where agent.runtime_id is not null
)
select count(*) from settled where (select count(*) from told) >= 0;

-- name: list_task_attachments(task_id)
-- record_class: StoredAttachment
-- The numbers run over the whole task. Failed files are counted too, so that a number means the same file in every
-- attempt.
with own as (
  select attachment.id, message.seq
  from chat_message message
  join chat_attachment attachment on attachment.chat_message_id = message.id
  where message.task_id = :task_id and message.role = 'user'
  union
  select attachment.id, message.seq
  from agent_task task
  join chat_attachment attachment on attachment.issue_id = task.issue_id
  join chat_message message on message.id = attachment.chat_message_id
  where task.id = :task_id
)
select attachment.id, attachment.chat_message_id as message_id,
  row_number() over (order by own.seq, attachment.n)::integer as n, attachment.installation_id,
  attachment.channel_message_id, attachment.channel_key, attachment.kind, attachment.name, attachment.mime_type,
  attachment.bytes, attachment.status, attachment.error,
  coalesce(
    (select channel_type from channel_installation where id = attachment.installation_id), ''
  ) as channel_type
from own join chat_attachment attachment on attachment.id = own.id
order by own.seq, attachment.n;

-- name: get_attachment(id)^
-- record_class: PlacedAttachment
-- Returns the columns that decide who may see the file, because a link to a file holds only the id of the file.
select id, chat_message_id as message_id, n, installation_id, channel_message_id, channel_key, kind, name, mime_type,
  bytes, status, error, workspace_id, chat_session_id, issue_id
from chat_attachment where id = :id;

-- name: known_attachments(ids)
-- A stored file whose row is gone is not in the result, and can be deleted.
select id from chat_attachment where id = any(:ids::uuid[]);
