-- Purges of expired rows, a bounded number of rows at a time. Every process purges, and each skips the rows that
-- another one is deleting.

-- name: purge_inbound_dedup(keep_seconds, rows_max)!
-- A claim must outlive the last redelivery of the platform, which comes about seven hours after the event.
delete from channel_inbound_message_dedup
where (installation_id, message_id) in (
  select installation_id, message_id from channel_inbound_message_dedup
  where received_at < now() - make_interval(secs => :keep_seconds)
  order by received_at
  limit :rows_max
  for update skip locked
);

-- name: purge_held_commands(keep_seconds, rows_max)!
-- It is too late to confirm these commands, and they are not read any more.
delete from channel_pending_command
where (chat_session_id, user_id) in (
  select chat_session_id, user_id from channel_pending_command
  where created_at < now() - make_interval(secs => :keep_seconds)
  order by created_at
  limit :rows_max
  for update skip locked
);

-- name: purge_binding_tokens(keep_seconds, rows_max)!
-- Kept for a while beyond their end, so that a late click is answered "expired" rather than "unknown".
delete from channel_binding_token
where token_hash in (
  select token_hash from channel_binding_token
  where expires_at < now() - make_interval(secs => :keep_seconds)
  order by expires_at
  limit :rows_max
  for update skip locked
);

-- name: purge_binding_prompts(keep_seconds, rows_max)!
-- Once a row is so old that the person may be asked again, its presence and its absence mean the same.
delete from channel_binding_prompt
where (installation_id, channel_user_id) in (
  select installation_id, channel_user_id from channel_binding_prompt
  where prompted_at < now() - make_interval(secs => :keep_seconds)
  order by prompted_at
  limit :rows_max
  for update skip locked
);

-- name: purge_user_sessions(keep_seconds, rows_max)!
-- An ended session is refused by its date already. This only frees the space.
delete from user_session
where token_hash in (
  select token_hash from user_session
  where expires_at < now() - make_interval(secs => :keep_seconds)
  order by expires_at
  limit :rows_max
  for update skip locked
);

-- name: purge_install_sessions(keep_seconds, rows_max)!
-- Kept for a while, so that the person who scanned can learn the outcome. Also purges sessions that were never ended
-- because there was no key to poll with.
delete from lark_install_session
where id in (
  select id from lark_install_session
  where coalesce(ended_at, deadline) < now() - make_interval(secs => :keep_seconds)
  order by coalesce(ended_at, deadline)
  limit :rows_max
  for update skip locked
);

-- name: purge_typing(keep_seconds, rows_max)!
-- Whatever the status: no run lasts that long, and a sign that could not be removed by then has lost its bot.
delete from channel_typing
where id in (
  select id from channel_typing
  where created_at < now() - make_interval(secs => :keep_seconds)
  order by created_at
  limit :rows_max
  for update skip locked
);

-- name: purge_outbound(keep_seconds, rows_max)!
-- Waiting rows stay, however old: the outbox itself gives them up and reports it.
delete from outbound_message
where id in (
  select id from outbound_message
  where status in ('sent', 'failed', 'unknown') and created_at < now() - make_interval(secs => :keep_seconds)
  order by created_at
  limit :rows_max
  for update skip locked
);

-- name: purge_inbound_audit(keep_seconds, rows_max)!
-- A busy group fills the audit with messages that were not addressed to the bot.
delete from channel_inbound_audit
where id in (
  select id from channel_inbound_audit
  where received_at < now() - make_interval(secs => :keep_seconds)
  order by received_at
  limit :rows_max
  for update skip locked
);

-- name: purge_deliveries(keep_seconds, rows_max)!
-- By age alone, whatever the outcome.
delete from webhook_delivery
where id in (
  select id from webhook_delivery
  where created_at < now() - make_interval(secs => :keep_seconds)
  order by created_at
  limit :rows_max
  for update skip locked
);
