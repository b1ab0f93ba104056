-- Files that people send, from their announcement in a message to the stored file. Every process fetches files, and
-- each skips the rows that another one is taking.

-- name: take_attachments(held_seconds, rows_max)
-- Takes the pending files that a run waits for, the most urgent first. A row that was taken but not held for
-- `held_seconds` is taken again, because the process that took it has died.
with due as (
  select id
  from chat_attachment
  where status = 'pending' and deadline_at > now()
    and (taken_at is null or taken_at < now() - make_interval(secs => :held_seconds))
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
), told as (
  select pg_notify('gateway_task', awaiting.runtime_id::text)
  from settled cross join lateral runtimes_awaiting_file(settled.chat_session_id, settled.issue_id) awaiting
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
), told as (
  select pg_notify('gateway_task', awaiting.runtime_id::text)
  from settled cross join lateral runtimes_awaiting_file(settled.chat_session_id, settled.issue_id) awaiting
)
select count(*) from settled where (select count(*) from told) >= 0;

-- name: list_task_attachments(task_id)
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

-- name: attach_shared_files(ids, message_id, channel_message_ids, kinds, channel_keys, names, files_max)!
-- Files of messages that the message quotes or forwards are numbered after its own. A row of them holds no words, and
-- is there once, however often its run is handed out. No run waits for them, so they have no deadline: they are fetched
-- when somebody asks for them.
insert into chat_attachment
  (id, workspace_id, installation_id, chat_session_id, chat_message_id, n, kind, channel_message_id, channel_key, name)
select fresh.id, conversation.workspace_id, conversation.installation_id, conversation.chat_session_id, message.id,
  own.last + row_number() over (order by fresh.place), fresh.kind, fresh.channel_message_id, fresh.channel_key, fresh.name
from chat_message message
join channel_chat_session_binding conversation on conversation.chat_session_id = message.chat_session_id
cross join lateral (
  select coalesce(max(attachment.n), 0) as last from chat_attachment attachment
  where attachment.chat_message_id = message.id
) own
cross join lateral (
  select distinct on (file.channel_message_id, file.channel_key) file.*
  from unnest(:ids::uuid[], :channel_message_ids::text[], :kinds::text[], :channel_keys::text[], :names::text[])
    with ordinality as file (id, channel_message_id, kind, channel_key, name, place)
  where not exists (
    select from chat_attachment known
    where known.chat_message_id = message.id and known.channel_message_id = file.channel_message_id
      and known.channel_key = file.channel_key
  )
  order by file.channel_message_id, file.channel_key, file.place
) fresh
where message.id = :message_id
order by fresh.place
limit greatest(0, :files_max - (
  select count(*) from chat_attachment attachment where attachment.chat_message_id = :message_id
))
on conflict (chat_message_id, n) do nothing;

-- name: get_attachment(id)^
-- Returns the columns that decide who may see the file, because a link to a file holds only the id of the file.
select id, chat_message_id as message_id, n, installation_id, channel_message_id, channel_key, kind, name, mime_type,
  bytes, status, error, workspace_id, chat_session_id, issue_id
from chat_attachment where id = :id;

-- name: known_attachments(ids)
-- A stored file whose row is gone is not in the result, and can be deleted.
select id from chat_attachment where id = any(:ids::uuid[]);
