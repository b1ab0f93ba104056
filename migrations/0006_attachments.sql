-- Files that people send. A row is a promise to fetch; the platform keeps the file, and any replica can fetch it again.
-- depends: 0005_origin

create table chat_attachment (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  installation_id uuid not null,
  chat_session_id uuid not null,
  chat_message_id uuid not null references chat_message on delete cascade,
  -- The order within the message.
  n integer not null check (n >= 1),
  kind text not null check (kind in ('image', 'file', 'audio', 'video')),
  -- Where the platform has it.
  channel_message_id text not null check (channel_message_id <> ''),
  channel_key text not null check (channel_key <> ''),
  name text not null default '',
  mime_type text not null default '',
  bytes bigint,
  status text not null default 'pending' check (status in ('pending', 'ready', 'failed')),
  error text,
  -- The issue that its message, a command, became.
  issue_id uuid references issue on delete set null,
  -- Who fetches it says so again every few seconds.
  taken_at timestamptz,
  -- Until when a run waits for it. Null: nobody does, because its message is a command that nothing came of yet.
  deadline_at timestamptz,
  created_at timestamptz not null default now(),
  fetched_at timestamptz,
  constraint chat_attachment_message_key unique (chat_message_id, n),
  check ((status = 'failed') = (error is not null)),
  check (status <> 'ready' or bytes is not null)
);
create index chat_attachment_pending_idx on chat_attachment (chat_session_id, deadline_at) where status = 'pending';
create index chat_attachment_awaited_idx on chat_attachment (deadline_at)
  where status = 'pending' and deadline_at is not null;
create index chat_attachment_issue_idx on chat_attachment (issue_id) where issue_id is not null;
