-- Files that people send, from the promise to the file. Every process fetches: each passes over what another one does.

-- name: take_attachments(rows_max)
-- record_class: Attachment
-- What a run waits for, the most urgent first. A row whose taker has not been heard of is taken again: its process died.
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
-- Whoever fetches says so every few seconds, so that the file of a crashed process does not wait for the deadline.
update chat_attachment set taken_at = now() where id = :id and status = 'pending';

-- name: release_attachment(id)!
-- A process that stops in the middle leaves the file to the next one at once.
with told as (
  select pg_notify('gateway_attachment', '')
)
update chat_attachment set taken_at = null
where id = :id and status = 'pending' and (select count(*) from told) >= 0;

-- name: settle_fetched(id, name, mime_type, bytes)$
-- Rings for the run that waits, once per file: of two files that are settled at the same moment neither would see the
-- other as the last. Also for a file that is fetched a second time, because it is not here any more.
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
-- What was fetched by somebody stays fetched. What may yet be had stays pending: no run waits for it any more, and whoever
-- asks for it has it fetched again. Rings like settle_fetched.
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
-- record_class: Attachment
-- Numbered over the whole task. The number counts the failed ones too, so that it means the same in every attempt.
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
-- With what says who may see it: links to a file name the file alone.
select id, chat_message_id as message_id, n, installation_id, channel_message_id, channel_key, kind, name, mime_type,
  bytes, status, error, workspace_id, chat_session_id, issue_id
from chat_attachment where id = :id;

-- name: known_attachments(ids)
-- A file whose row is gone is nobody's.
select id from chat_attachment where id = any(:ids::uuid[]);
