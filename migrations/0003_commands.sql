-- Issues from a chat, and commands that came too late and wait for a word.
-- depends: 0002_channel

-- When two titles are the same. A digest, because titles may be longer than what an index takes.
create function issue_title_key(title text) returns text language sql immutable strict parallel safe as $$
  select md5(lower(btrim(regexp_replace(title, '\s+', ' ', 'g'))))
$$;

-- Every issue that is filed looks for an open one of its title, and goes on top of its column.
create index issue_open_title_idx on issue (workspace_id, issue_title_key(title)) where status not in ('done', 'cancelled');
create index issue_position_idx on issue (workspace_id, status, position);

-- A command that was too old when it arrived, one per person and conversation. The message it came with is kept in the
-- conversation; `words` are the sender's own, from which it is read.
create table channel_pending_command (
  chat_session_id uuid not null,
  user_id uuid not null,
  workspace_id uuid not null,
  installation_id uuid not null,
  chat_message_id uuid not null,
  words text not null,
  created_at timestamptz not null default now(),
  primary key (chat_session_id, user_id)
);
create index channel_pending_command_age_idx on channel_pending_command (created_at);
