-- Bots that are being connected by scanning a code: all that any process needs to go on with a scan another one began.
-- depends: 0007_typing

create table lark_install_session (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  agent_id uuid not null references agent on delete cascade,
  initiator_user_id uuid not null references app_user on delete cascade,
  -- The cloud that was asked first, and the one that is asked now: a scan may move to the other one, once.
  region text not null check (region in ('feishu', 'lark')),
  polled_region text not null check (polled_region in ('feishu', 'lark')),
  -- Sealed for the session's id, and gone with its end: what the platform knows the scan by, and the app it granted.
  device_code bytea,
  credentials bytea,
  interval_seconds double precision not null check (interval_seconds > 0),
  next_poll_at timestamptz not null,
  deadline timestamptz not null,
  status text not null default 'pending' check (status in ('pending', 'success', 'error')),
  error_reason text check (error_reason in ('expired', 'access_denied', 'lark_protocol_error', 'bot_info_failed',
    'installation_conflict', 'installer_bind_failed', 'internal_error')),
  error_message text not null default '',
  installation_id uuid,
  -- Who has the session in hand, for one step. An expired lease is free: a lost process costs a scan some seconds.
  poller uuid,
  poller_until timestamptz,
  created_at timestamptz not null default now(),
  ended_at timestamptz,
  check ((status = 'pending') = (ended_at is null)),
  check ((status = 'error') = (error_reason is not null)),
  check ((status = 'success') = (installation_id is not null)),
  check ((status = 'pending') = (device_code is not null)),
  check (status = 'pending' or credentials is null)
);
create index lark_install_session_pending_idx on lark_install_session (next_poll_at) where status = 'pending';
create index lark_install_session_age_idx on lark_install_session ((coalesce(ended_at, deadline)));

-- What is dropped is read back newest first, a page at a time, with a key that does not tie.
drop index channel_inbound_audit_idx;
create index channel_inbound_audit_idx on channel_inbound_audit (installation_id, received_at desc, id desc);
