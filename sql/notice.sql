-- What the gateway itself says in a chat.

-- name: queue_notice(id, workspace_id, installation_id, session_id, chat_id, thread_id, message_id, content, uuid)!
-- A message gets one reply, whoever tries: its key is made from the message.
insert into outbound_message (id, workspace_id, installation_id, chat_session_id, kind, recipient_id, thread_id,
  reply_to_message_id, content, uuid)
values (:id, :workspace_id, :installation_id, :session_id, 'notice', :chat_id, nullif(:thread_id, ''),
  nullif(:message_id, ''), :content, :uuid)
on conflict (uuid) do nothing;
