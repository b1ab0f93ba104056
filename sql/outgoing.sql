-- What was said to platforms and did not arrive, or nobody knows, as owners and admins look after it.

-- name: list_outgoing(workspace_id, status, row_limit, row_offset)
-- record_class: Outgoing
-- The latest first, without the words: whoever may read those reads the conversation.
select id, installation_id, chat_session_id, task_id, kind, part, recipient_type, recipient_id, status, attempts,
  error_code, error, channel_message_id, created_at, last_attempt_at, sent_at
from outbound_message
where workspace_id = :workspace_id and (:status::text is null or status = :status)
order by seq desc
limit :row_limit offset :row_offset;

-- name: count_outgoing(workspace_id, status)$
-- All that list_outgoing would list.
select count(*) from outbound_message where workspace_id = :workspace_id and (:status::text is null or status = :status);

-- name: get_outgoing(id, user_id)^
-- record_class: Owned
-- None for who is no member, as for what is not there.
select outgoing.id, outgoing.workspace_id, viewer.role
from outbound_message outgoing
join member viewer on viewer.workspace_id = outgoing.workspace_id and viewer.user_id = :user_id
where outgoing.id = :id;

-- name: resend_outgoing(id, workspace_id, uuid)^
-- record_class: Outgoing
-- Somebody decided to say it again: a message of its own for the platform, which would drop a repeat of the former key.
-- Only what is over; what is still tried needs nobody.
update outbound_message
set status = 'queued', uuid = :uuid, attempts = 0, available_at = now(), first_attempt_at = null, lease_epoch = null,
  error_code = null, error = null, channel_message_id = null, sent_at = null, created_at = now()
where id = :id and workspace_id = :workspace_id and status in ('failed', 'unknown')
returning id, installation_id, chat_session_id, task_id, kind, part, recipient_type, recipient_id, status, attempts,
  error_code, error, channel_message_id, created_at, last_attempt_at, sent_at;
