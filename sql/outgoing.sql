-- Messages to platforms that failed or whose result is unknown, for owners and admins.

-- name: list_outgoing(workspace_id, status, row_limit, row_offset)
-- The latest first, without their text. People who may read the text can read it in the conversation.
select id, installation_id, chat_session_id, task_id, kind, part, recipient_type, recipient_id, status, attempts,
  error_code, error, channel_message_id, created_at, last_attempt_at, sent_at
from outbound_message
where workspace_id = :workspace_id and (:status::text is null or status = :status)
order by seq desc
limit :row_limit offset :row_offset;

-- name: count_outgoing(workspace_id, status)$
-- Counts the rows that list_outgoing would list.
select count(*) from outbound_message where workspace_id = :workspace_id and (:status::text is null or status = :status);

-- name: get_outgoing(id, user_id)^
-- No row for a person who is not a member, as for a message that does not exist.
select outgoing.id, outgoing.workspace_id, viewer.role
from outbound_message outgoing
join member viewer on viewer.workspace_id = outgoing.workspace_id and viewer.user_id = :user_id
where outgoing.id = :id;

-- name: resend_outgoing(id, workspace_id, uuid)^
-- A person decided to send it again. It gets a new key, because the platform would drop a repeat of the former one.
-- Only rows that are final: a row that is still being tried needs no help.
update outbound_message
set status = 'queued', uuid = :uuid, attempts = 0, available_at = now(), first_attempt_at = null, lease_epoch = null,
  error_code = null, error = null, channel_message_id = null, sent_at = null, created_at = now()
where id = :id and workspace_id = :workspace_id and status in ('failed', 'unknown')
returning id, installation_id, chat_session_id, task_id, kind, part, recipient_type, recipient_id, status, attempts,
  error_code, error, channel_message_id, created_at, last_attempt_at, sent_at;
