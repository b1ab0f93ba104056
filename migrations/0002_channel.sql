-- Chat platforms. No foreign keys inside channel_*: integrity is the application's, so that rows of a deleted agent or
-- workspace can be fenced, reclaimed and imported; listings join workspace and agent so that orphans are not served.
-- depends: 0001_core

create table channel_installation (
  id uuid primary key,
  workspace_id uuid not null,
  agent_id uuid not null,
  channel_type text not null check (channel_type <> ''),
  config jsonb not null default '{}',
  status text not null default 'active' check (status in ('active', 'revoked')),
  installer_user_id uuid,
  -- The lease. The token names its holder, the epoch fences what only the holder may write, and only grows. No index
  -- has these columns: every holder renews every few seconds, and so each renewal stays a heap-only update.
  ws_lease_token text,
  ws_lease_expires_at timestamptz,
  lease_epoch bigint not null default 0,
  installed_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint channel_installation_agent_key unique (workspace_id, agent_id, channel_type)
);
create unique index channel_installation_app_key on channel_installation (channel_type, (config ->> 'app_id'));
create index channel_installation_agent_idx on channel_installation (agent_id);

create table channel_user_binding (
  id uuid primary key,
  workspace_id uuid not null,
  user_id uuid not null,
  installation_id uuid not null,
  channel_type text not null,
  channel_user_id text not null check (channel_user_id <> ''),
  config jsonb not null default '{}',
  bound_at timestamptz not null default now(),
  constraint channel_user_binding_key unique (installation_id, channel_user_id)
);
create index channel_user_binding_member_idx on channel_user_binding (workspace_id, user_id);

create table channel_chat_session_binding (
  id uuid primary key,
  workspace_id uuid not null,
  chat_session_id uuid not null,
  installation_id uuid not null,
  channel_type text not null,
  -- The key of the conversation: the chat, or chat:thread for a topic (then config holds the real chat id).
  channel_chat_id text not null check (channel_chat_id <> ''),
  chat_type text not null check (chat_type in ('p2p', 'group')),
  last_message_id text,
  last_thread_id text,
  config jsonb not null default '{}',
  created_at timestamptz not null default now(),
  constraint channel_chat_session_binding_session_key unique (chat_session_id),
  constraint channel_chat_session_binding_chat_key unique (installation_id, channel_chat_id)
);

-- The claim that makes a message exist once. In flight while processed_at is null; an older one than 60 s may be retaken.
create table channel_inbound_message_dedup (
  installation_id uuid not null,
  message_id text not null,
  received_at timestamptz not null default now(),
  processed_at timestamptz,
  claim_token uuid not null,
  primary key (installation_id, message_id)
);
create index channel_inbound_message_dedup_age_idx on channel_inbound_message_dedup (received_at);

-- What was dropped, and why. There is no column for content, ever.
create table channel_inbound_audit (
  id uuid primary key default gen_random_uuid(),
  installation_id uuid,
  channel_type text not null,
  channel_chat_id text not null default '',
  event_type text not null default '',
  channel_event_id text not null default '',
  channel_message_id text not null default '',
  drop_reason text not null check (drop_reason in ('unbound_user', 'non_workspace_member', 'not_addressed_in_group',
    'duplicate', 'revoked_installation', 'invalid_event', 'sender_is_bot')),
  received_at timestamptz not null default now()
);
create index channel_inbound_audit_idx on channel_inbound_audit (installation_id, received_at desc);

create table channel_outbound_card_message (
  id uuid primary key,
  chat_session_id uuid not null,
  task_id uuid,
  channel_type text not null,
  channel_chat_id text not null,
  channel_card_message_id text not null,
  status text not null check (status in ('pending', 'streaming', 'final', 'error')),
  last_patched_at timestamptz,
  created_at timestamptz not null default now()
);
create unique index channel_outbound_card_message_task_key on channel_outbound_card_message (task_id)
  where task_id is not null;

create table channel_binding_token (
  token_hash text primary key check (token_hash ~ '^[0-9a-f]{64}$'),
  workspace_id uuid not null,
  installation_id uuid not null,
  channel_type text not null,
  channel_user_id text not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  consumed_at timestamptz,
  check (expires_at <= created_at + interval '15 minutes')
);
create index channel_binding_token_expiry_idx on channel_binding_token (expires_at);

-- Whether a bot can hear: the one state that readiness, metrics, console and doctor read. Written by the lease holder.
create table channel_connection (
  installation_id uuid primary key,
  state text not null check (state in ('connecting', 'live', 'deaf', 'refused', 'standby', 'http',
    'unreadable_secret', 'revoked')),
  code bigint not null default 0,
  detail text not null default '',
  node text not null default '',
  lease_epoch bigint not null default 0,
  last_frame_at timestamptz,
  last_event_at timestamptz,
  pong_ms double precision,
  updated_at timestamptz not null default now()
);

-- The outbox: everything sent to a platform is a row first, written by the transaction that causes it.
create table outbound_message (
  id uuid primary key,
  seq bigint generated always as identity,
  workspace_id uuid not null,
  installation_id uuid not null,
  chat_session_id uuid,
  task_id uuid,
  kind text not null check (kind in ('answer', 'error', 'notice', 'binding_prompt')),
  -- Where it goes. Messages of one recipient leave in the order of seq.
  recipient_type text not null default 'chat' check (recipient_type in ('chat', 'user')),
  recipient_id text not null check (recipient_id <> ''),
  thread_id text,
  reply_to_message_id text,
  content text not null default '',
  status text not null default 'queued' check (status in ('queued', 'sending', 'sent', 'failed', 'unknown')),
  -- The platform drops repeats of one uuid for an hour: it never changes between attempts.
  uuid text not null unique check (length(uuid) between 1 and 50),
  attempts integer not null default 0,
  available_at timestamptz not null default now(),
  first_attempt_at timestamptz,
  last_attempt_at timestamptz,
  sent_at timestamptz,
  lease_epoch bigint,
  channel_message_id text,
  error_code bigint,
  error text,
  created_at timestamptz not null default now()
);
create unique index outbound_message_task_key on outbound_message (task_id, kind) where task_id is not null;
create index outbound_message_open_idx on outbound_message (installation_id, seq) where status in ('queued', 'sending');

-- A change that another process must act on announces itself, whoever makes it: daemon, command line or psql.
create function announce_installation() returns trigger language plpgsql as $$
begin
  perform pg_notify('gateway_installation', coalesce(new.id, old.id)::text);
  return null;
end $$;
create trigger channel_installation_announce after insert or delete or update of config, status, agent_id, workspace_id
  on channel_installation for each row execute function announce_installation();

create function announce_outbound() returns trigger language plpgsql as $$
begin
  perform pg_notify('gateway_outbound', new.installation_id::text);
  return null;
end $$;
create trigger outbound_message_announce after insert or update of status on outbound_message
  for each row when (new.status = 'queued') execute function announce_outbound();
