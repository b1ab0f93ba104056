-- What is thrown away when its time is over, a bounded number of rows at a time. Every process purges: each passes over
-- the rows that another one is deleting.

-- name: purge_inbound_dedup(keep_seconds, rows_max)!
-- A claim must outlive the platform's last redelivery, which comes about seven hours after the event.
delete from channel_inbound_message_dedup
where (installation_id, message_id) in (
  select installation_id, message_id from channel_inbound_message_dedup
  where received_at < now() - make_interval(secs => :keep_seconds)
  order by received_at
  limit :rows_max
  for update skip locked
);

-- name: purge_held_commands(keep_seconds, rows_max)!
-- Too late to be confirmed; by then nothing reads it any more.
delete from channel_pending_command
where (chat_session_id, user_id) in (
  select chat_session_id, user_id from channel_pending_command
  where created_at < now() - make_interval(secs => :keep_seconds)
  order by created_at
  limit :rows_max
  for update skip locked
);

-- name: purge_binding_tokens(keep_seconds, rows_max)!
-- Kept a while beyond their end, so that a late click is told "expired" rather than "unknown".
delete from channel_binding_token
where token_hash in (
  select token_hash from channel_binding_token
  where expires_at < now() - make_interval(secs => :keep_seconds)
  order by expires_at
  limit :rows_max
  for update skip locked
);

-- name: purge_binding_prompts(keep_seconds, rows_max)!
-- Once it is old enough for the person to be asked again, a row says nothing that its absence does not.
delete from channel_binding_prompt
where (installation_id, channel_user_id) in (
  select installation_id, channel_user_id from channel_binding_prompt
  where prompted_at < now() - make_interval(secs => :keep_seconds)
  order by prompted_at
  limit :rows_max
  for update skip locked
);

-- name: purge_user_sessions(keep_seconds, rows_max)!
-- An ended session is refused by its date already; this only frees the room.
delete from user_session
where token_hash in (
  select token_hash from user_session
  where expires_at < now() - make_interval(secs => :keep_seconds)
  order by expires_at
  limit :rows_max
  for update skip locked
);

-- name: purge_install_sessions(keep_seconds, rows_max)!
-- Kept a while, so that whoever scanned hears how it went; also what nobody ended, because there was no key to poll with.
delete from lark_install_session
where id in (
  select id from lark_install_session
  where coalesce(ended_at, deadline) < now() - make_interval(secs => :keep_seconds)
  order by coalesce(ended_at, deadline)
  limit :rows_max
  for update skip locked
);

-- name: purge_typing(keep_seconds, rows_max)!
-- Whatever its status: no run lasts that long, and a sign that nobody could take away by then has lost its bot.
delete from channel_typing
where id in (
  select id from channel_typing
  where created_at < now() - make_interval(secs => :keep_seconds)
  order by created_at
  limit :rows_max
  for update skip locked
);

-- name: purge_outbound(keep_seconds, rows_max)!
-- What is still to be sent stays, however old: the outbox itself gives up on it, and says so.
delete from outbound_message
where id in (
  select id from outbound_message
  where status in ('sent', 'failed', 'unknown') and created_at < now() - make_interval(secs => :keep_seconds)
  order by created_at
  limit :rows_max
  for update skip locked
);

-- name: purge_inbound_audit(keep_seconds, rows_max)!
-- A busy group fills it with messages that were meant for nobody here.
delete from channel_inbound_audit
where id in (
  select id from channel_inbound_audit
  where received_at < now() - make_interval(secs => :keep_seconds)
  order by received_at
  limit :rows_max
  for update skip locked
);
