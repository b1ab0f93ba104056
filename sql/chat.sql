-- Conversations, as people read and delete them.

-- name: list_chats(workspace_id, user_id, row_limit, row_offset)
-- The latest first. visible_chats decides who sees which conversation.
select chat.*
from visible_chats(:user_id) chat
where chat.workspace_id = :workspace_id
order by chat.updated_at desc, chat.id
limit :row_limit offset :row_offset;

-- name: count_chats(workspace_id, user_id)$
-- Counts the rows that list_chats would list.
select count(*) from visible_chats(:user_id) chat where chat.workspace_id = :workspace_id;

-- name: get_chat(chat_id, user_id)^
-- No row for a person who may not see it, as for a conversation that does not exist.
select chat.* from visible_chats(:user_id) chat where chat.id = :chat_id;

-- name: list_chat_messages(workspace_id, chat_id, row_limit, row_offset)
-- In the order of the conversation, the oldest first.
select message.id, message.role, message.kind, message.content, message.author_user_id,
  coalesce(nullif(author.name, ''), split_part(author.email, '@', 1)) as author_name, message.task_id,
  message.context_generation, message.sent_at, message.created_at
from chat_message message
join chat_session session on session.id = message.chat_session_id and session.workspace_id = :workspace_id
left join app_user author on author.id = message.author_user_id
where message.chat_session_id = :chat_id
order by message.seq
limit :row_limit offset :row_offset;

-- name: count_chat_messages(workspace_id, chat_id)$
-- Counts the rows that list_chat_messages would list.
select count(*)
from chat_message message
join chat_session session on session.id = message.chat_session_id and session.workspace_id = :workspace_id
where message.chat_session_id = :chat_id;

-- name: delete_chat_tasks(workspace_id, chat_id, statuses)
-- Waits for a task that is being claimed or ended. That transaction may have queued another task which this statement
-- does not see, so run it until it deletes nothing. The runtimes learn of it by their heartbeats, because a deleted
-- task is no longer listed as theirs.
delete from agent_task task
where task.chat_session_id = :chat_id and task.workspace_id = :workspace_id and task.status = any(:statuses::text[])
returning task.id, task.workspace_id, task.agent_id, task.issue_id, task.chat_session_id, task.kind,
  task.status in ('queued', 'dispatched', 'running') as live,
  extract(epoch from now() - task.dispatched_at)::double precision as run_seconds;

-- name: lock_chat(workspace_id, chat_id)$
-- From here on no message is appended to the conversation and no run is queued in it.
select id from chat_session where id = :chat_id and workspace_id = :workspace_id for no key update;

-- name: limit_lock_wait(milliseconds)$
-- For the rest of the transaction. A run that began meanwhile and is just ending may wait for the session that is
-- locked here. This transaction then gives way, long before the database would look for a deadlock.
select set_config('lock_timeout', :milliseconds::text, true);

-- name: delete_chat_outbound(workspace_id, chat_id)!
-- Waiting messages are not sent any more, and sent ones are copies of what is deleted.
delete from outbound_message
where chat_session_id = :chat_id and workspace_id = :workspace_id and status <> 'sending';

-- name: detach_chat_outbound(workspace_id, chat_id)!
-- A message that is being sent at this moment cannot be called back. Its row stays, because its sender must store the
-- outcome.
update outbound_message set chat_session_id = null, task_id = null
where chat_session_id = :chat_id and workspace_id = :workspace_id;

-- name: delete_chat_cards(workspace_id, chat_id)!
-- Cards have no workspace column, so the workspace of the session decides.
delete from channel_outbound_card_message card
using chat_session session
where card.chat_session_id = :chat_id and session.id = card.chat_session_id and session.workspace_id = :workspace_id;

-- name: delete_held_commands(workspace_id, chat_id)!
-- Without the conversation they cannot be confirmed any more.
delete from channel_pending_command where chat_session_id = :chat_id and workspace_id = :workspace_id;

-- name: delete_chat_binding(workspace_id, chat_id)!
-- Frees the conversation of the platform, so that its next message begins a new session.
delete from channel_chat_session_binding where chat_session_id = :chat_id and workspace_id = :workspace_id;

-- name: delete_chat_session(workspace_id, chat_id)!
-- The messages are deleted with it.
delete from chat_session where id = :chat_id and workspace_id = :workspace_id;
