-- People, workspaces, agents and their work. Ids are minted by the application; every tenant row carries workspace_id.

create table workspace (
  id uuid primary key,
  name text not null check (name <> ''),
  slug text not null unique check (slug ~ '^[a-z0-9][a-z0-9-]*$'),
  issue_prefix text not null check (issue_prefix ~ '^[A-Z][A-Z0-9]{0,9}$'),
  issue_counter bigint not null default 0,
  language text not null default 'en' check (language in ('en', 'zh-Hans')),
  settings jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create table app_user (
  id uuid primary key,
  email text not null check (email = lower(email) and position('@' in email) > 1),
  name text not null default '',
  password_hash text,
  created_at timestamptz not null default now(),
  constraint app_user_email_key unique (email)
);

create table member (
  workspace_id uuid not null references workspace on delete cascade,
  user_id uuid not null references app_user on delete cascade,
  role text not null check (role in ('owner', 'admin', 'member', 'guest')),
  created_at timestamptz not null default now(),
  primary key (workspace_id, user_id)
);
create index member_user_idx on member (user_id);

create table agent_runtime (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  name text not null check (name <> ''),
  kind text not null default '',
  version text not null default '',
  last_heartbeat_at timestamptz,
  created_at timestamptz not null default now(),
  constraint agent_runtime_name_key unique (workspace_id, name)
);

create table agent (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  name text not null check (name <> ''),
  owner_id uuid references app_user on delete set null,
  -- No foreign key: an agent whose runtime was deleted is an agent without a runtime, decided by the join.
  runtime_id uuid,
  visibility text not null default 'workspace' check (visibility in ('workspace', 'private')),
  max_concurrent_tasks integer not null default 6 check (max_concurrent_tasks > 0),
  archived_at timestamptz,
  created_at timestamptz not null default now(),
  constraint agent_name_key unique (workspace_id, name)
);
create index agent_runtime_idx on agent (runtime_id) where runtime_id is not null;

create table squad (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  name text not null check (name <> ''),
  leader_agent_id uuid references agent on delete set null,
  archived_at timestamptz,
  created_at timestamptz not null default now(),
  constraint squad_name_key unique (workspace_id, name)
);

create table project (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  name text not null check (name <> ''),
  created_at timestamptz not null default now()
);
create index project_workspace_idx on project (workspace_id);

-- A person's token (gwu_) or a runtime's (gwr_). Only the hash is kept; the secret is shown once.
create table api_token (
  id uuid primary key,
  token_hash text not null unique check (token_hash ~ '^[0-9a-f]{64}$'),
  user_id uuid references app_user on delete cascade,
  runtime_id uuid references agent_runtime on delete cascade,
  name text not null default '',
  created_at timestamptz not null default now(),
  last_used_at timestamptz,
  revoked_at timestamptz,
  check (num_nonnulls(user_id, runtime_id) = 1)
);

create table user_session (
  token_hash text primary key check (token_hash ~ '^[0-9a-f]{64}$'),
  user_id uuid not null references app_user on delete cascade,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null
);
create index user_session_expiry_idx on user_session (expires_at);

create table issue (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  project_id uuid references project on delete set null,
  parent_issue_id uuid references issue on delete set null,
  number bigint not null,
  title text not null,
  description text not null default '',
  status text not null default 'todo'
    check (status in ('backlog', 'todo', 'in_progress', 'in_review', 'done', 'blocked', 'cancelled')),
  priority text not null default 'none' check (priority in ('urgent', 'high', 'medium', 'low', 'none')),
  position double precision not null default 0,
  stage integer check (stage >= 1),
  assignee_type text check (assignee_type in ('member', 'agent', 'squad')),
  assignee_id uuid,
  creator_type text not null default 'member' check (creator_type in ('member', 'agent', 'system')),
  creator_id uuid,
  origin_type text check (origin_type in ('quick_create', 'autopilot', 'lark_chat')),
  origin_id uuid,
  first_executed_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint issue_number_key unique (workspace_id, number),
  check ((assignee_type is null) = (assignee_id is null))
);
create index issue_parent_idx on issue (parent_issue_id) where parent_issue_id is not null;

create table issue_comment (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  issue_id uuid not null references issue on delete cascade,
  author_type text not null check (author_type in ('member', 'agent', 'system')),
  author_id uuid,
  kind text not null default 'comment' check (kind in ('comment', 'system')),
  body text not null,
  created_at timestamptz not null default now()
);
create index issue_comment_issue_idx on issue_comment (issue_id, created_at);

create table chat_session (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  agent_id uuid not null references agent on delete cascade,
  creator_id uuid references app_user on delete set null,
  title text not null default '',
  -- Raised by /new: what was said under an earlier generation is not part of the conversation any more.
  context_generation integer not null default 0,
  archived_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index chat_session_workspace_idx on chat_session (workspace_id, updated_at desc);

create table agent_task (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  agent_id uuid not null references agent on delete cascade,
  -- The runtime that claimed it; null while queued. Who may claim it is decided by agent.runtime_id at that moment.
  runtime_id uuid,
  kind text not null check (kind in ('chat', 'issue', 'autopilot')),
  status text not null default 'queued'
    check (status in ('queued', 'dispatched', 'running', 'completed', 'failed', 'cancelled')),
  priority integer not null default 2,
  chat_session_id uuid references chat_session on delete cascade,
  issue_id uuid references issue on delete cascade,
  autopilot_run_id uuid,
  initiator_user_id uuid references app_user on delete set null,
  context_generation integer not null default 0,
  attempt integer not null default 1,
  max_attempts integer not null default 3 check (max_attempts >= 1),
  -- Not claimable before. Batching consecutive messages is this column moving, never a timer in a process.
  available_at timestamptz not null default now(),
  dispatched_at timestamptz,
  started_at timestamptz,
  -- When its runtime last named it in a heartbeat; null while it never did, then the runtime's own heartbeat counts.
  seen_at timestamptz,
  completed_at timestamptz,
  progress text,
  result jsonb,
  error text,
  failure_reason text,
  created_at timestamptz not null default now(),
  check (kind <> 'chat' or chat_session_id is not null),
  check (kind <> 'issue' or issue_id is not null)
);
-- One waiting run per conversation: later messages join it.
create unique index agent_task_queued_chat_key on agent_task (chat_session_id) where status = 'queued' and kind = 'chat';
create unique index agent_task_pending_issue_key on agent_task (issue_id, agent_id)
  where status in ('queued', 'dispatched') and kind = 'issue';
create index agent_task_due_idx on agent_task (agent_id, priority desc, created_at) where status = 'queued';
create index agent_task_active_idx on agent_task (agent_id) where status in ('dispatched', 'running');

create table chat_message (
  id uuid primary key,
  -- The order of a conversation; created_at is one instant for all rows of a transaction.
  seq bigint generated always as identity,
  chat_session_id uuid not null references chat_session on delete cascade,
  role text not null check (role in ('user', 'assistant', 'system')),
  kind text not null default 'text' check (kind in ('text', 'channel_command')),
  content text not null,
  author_user_id uuid references app_user on delete set null,
  -- For a user's message the run that took it in, for the assistant's the run that wrote it.
  task_id uuid references agent_task on delete set null,
  context_generation integer not null default 0,
  sent_at timestamptz,
  created_at timestamptz not null default now()
);
create index chat_message_session_idx on chat_message (chat_session_id, seq);
create index chat_message_waiting_idx on chat_message (chat_session_id) where task_id is null and role = 'user';
create index chat_message_task_idx on chat_message (task_id) where task_id is not null;
