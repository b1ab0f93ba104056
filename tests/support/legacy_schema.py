"""The reference product's tables as far as an import meets them, in both generations; written without its code."""

from __future__ import annotations

PARENTS = """
create table "user" (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  email text not null unique,
  avatar_url text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create table workspace (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  slug text not null unique,
  description text,
  settings jsonb not null default '{}',
  issue_prefix text not null default '',
  issue_counter integer not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create table member (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null references workspace on delete cascade,
  user_id uuid not null references "user" on delete cascade,
  role text not null check (role in ('owner', 'admin', 'member')),
  created_at timestamptz not null default now(),
  unique (workspace_id, user_id)
);
create table agent_runtime (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null references workspace on delete cascade,
  daemon_id text,
  name text not null,
  provider text not null,
  status text not null default 'offline',
  last_seen_at timestamptz,
  created_at timestamptz not null default now()
);
create table agent (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null references workspace on delete cascade,
  name text not null,
  visibility text not null default 'workspace' check (visibility in ('workspace', 'private')),
  max_concurrent_tasks integer not null default 1,
  owner_id uuid references "user",
  runtime_id uuid references agent_runtime,
  archived_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create table chat_session (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null references workspace on delete cascade,
  agent_id uuid not null references agent on delete cascade,
  creator_id uuid not null references "user",
  title text not null default '',
  status text not null default 'active' check (status in ('active', 'archived')),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create table chat_message (
  id uuid primary key default gen_random_uuid(),
  chat_session_id uuid not null references chat_session on delete cascade,
  role text not null check (role in ('user', 'assistant')),
  content text not null,
  task_id uuid,
  created_at timestamptz not null default now()
);
"""

LARK = """
create table lark_installation (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null references workspace on delete cascade,
  agent_id uuid not null references agent on delete cascade,
  app_id text not null unique,
  app_secret_encrypted bytea not null,
  tenant_key text,
  bot_open_id text not null,
  bot_union_id text,
  region text not null default 'feishu' check (region in ('feishu', 'lark')),
  installer_user_id uuid not null references "user" on delete restrict,
  status text not null default 'active' check (status in ('active', 'revoked')),
  ws_lease_token text,
  ws_lease_expires_at timestamptz,
  installed_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (workspace_id, agent_id),
  unique (id, workspace_id)
);
create table lark_user_binding (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null,
  multica_user_id uuid not null,
  installation_id uuid not null,
  lark_open_id text not null,
  union_id text,
  bound_at timestamptz not null default now(),
  unique (installation_id, lark_open_id),
  foreign key (installation_id, workspace_id) references lark_installation (id, workspace_id) on delete cascade,
  foreign key (workspace_id, multica_user_id) references member (workspace_id, user_id) on delete cascade
);
create table lark_chat_session_binding (
  id uuid primary key default gen_random_uuid(),
  chat_session_id uuid not null unique references chat_session on delete cascade,
  installation_id uuid not null references lark_installation on delete cascade,
  lark_chat_id text not null,
  chat_type text not null check (chat_type in ('p2p', 'group')),
  last_lark_message_id text,
  last_lark_thread_id text,
  created_at timestamptz not null default now(),
  unique (installation_id, lark_chat_id)
);
create table lark_inbound_message_dedup (
  installation_id uuid not null references lark_installation on delete cascade,
  message_id text not null,
  received_at timestamptz not null default now(),
  processed_at timestamptz,
  claim_token uuid not null default gen_random_uuid(),
  primary key (installation_id, message_id)
);
create table lark_inbound_audit (
  id uuid primary key default gen_random_uuid(),
  installation_id uuid references lark_installation on delete set null,
  lark_chat_id text,
  event_type text not null,
  lark_event_id text,
  lark_message_id text,
  drop_reason text not null,
  received_at timestamptz not null default now()
);
create table lark_outbound_card_message (
  id uuid primary key default gen_random_uuid(),
  chat_session_id uuid not null references chat_session on delete cascade,
  task_id uuid,
  lark_chat_id text not null,
  lark_card_message_id text not null,
  status text not null check (status in ('pending', 'streaming', 'final', 'error')),
  last_patched_at timestamptz,
  created_at timestamptz not null default now()
);
create unique index on lark_outbound_card_message (task_id) where task_id is not null;
create table lark_binding_token (
  token_hash text primary key,
  workspace_id uuid not null,
  installation_id uuid not null references lark_installation on delete cascade,
  lark_open_id text not null,
  expires_at timestamptz not null,
  consumed_at timestamptz,
  created_at timestamptz not null default now(),
  check (expires_at <= created_at + interval '15 minutes')
);
"""

CHANNEL = """
create table channel_installation (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null,
  agent_id uuid not null,
  channel_type text not null,
  config jsonb not null default '{}',
  status text not null default 'active' check (status in ('active', 'revoked')),
  ws_lease_token text,
  ws_lease_expires_at timestamptz,
  installer_user_id uuid not null,
  installed_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (workspace_id, agent_id, channel_type)
);
create unique index on channel_installation (channel_type, (config ->> 'app_id'));
create table channel_user_binding (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null,
  multica_user_id uuid not null,
  installation_id uuid not null,
  channel_type text not null,
  channel_user_id text not null,
  config jsonb not null default '{}',
  bound_at timestamptz not null default now(),
  unique (installation_id, channel_user_id)
);
create table channel_chat_session_binding (
  id uuid primary key default gen_random_uuid(),
  chat_session_id uuid not null unique,
  installation_id uuid not null,
  channel_type text not null,
  channel_chat_id text not null,
  chat_type text not null check (chat_type in ('p2p', 'group')),
  last_message_id text,
  last_thread_id text,
  config jsonb not null default '{}',
  created_at timestamptz not null default now(),
  unique (installation_id, channel_chat_id)
);
create table channel_inbound_message_dedup (
  installation_id uuid not null,
  message_id text not null,
  received_at timestamptz not null default now(),
  processed_at timestamptz,
  claim_token uuid not null default gen_random_uuid(),
  primary key (installation_id, message_id)
);
create table channel_inbound_audit (
  id uuid primary key default gen_random_uuid(),
  installation_id uuid,
  channel_type text not null,
  channel_chat_id text,
  event_type text not null,
  channel_event_id text,
  channel_message_id text,
  drop_reason text not null,
  received_at timestamptz not null default now()
);
create table channel_outbound_card_message (
  id uuid primary key default gen_random_uuid(),
  chat_session_id uuid not null,
  task_id uuid,
  channel_type text not null,
  channel_chat_id text not null,
  channel_card_message_id text not null,
  status text not null check (status in ('pending', 'streaming', 'final', 'error')),
  last_patched_at timestamptz,
  created_at timestamptz not null default now()
);
create unique index on channel_outbound_card_message (task_id) where task_id is not null;
create table channel_binding_token (
  token_hash text primary key,
  workspace_id uuid not null,
  installation_id uuid not null,
  channel_type text not null,
  channel_user_id text not null,
  expires_at timestamptz not null,
  consumed_at timestamptz,
  created_at timestamptz not null default now(),
  check (expires_at <= created_at + interval '15 minutes')
);
"""
