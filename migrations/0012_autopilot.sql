-- Autopilots: standing orders that file an issue or start a run when a trigger fires, and what became of each firing.
-- depends: 0007_typing

create table autopilot (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  project_id uuid references project on delete set null,
  title text not null check (title <> ''),
  description text not null default '',
  -- No foreign key: an assignee that is gone makes a run that says so.
  assignee_type text not null default 'agent' check (assignee_type in ('agent', 'squad')),
  assignee_id uuid not null,
  -- Whose permission to use a private assignee counts. Null in rows that came from elsewhere: then their creator's.
  assigned_by_id uuid,
  priority text not null default 'medium' check (priority in ('urgent', 'high', 'medium', 'low', 'none')),
  status text not null default 'active' check (status in ('active', 'paused', 'archived')),
  execution_mode text not null default 'create_issue' check (execution_mode in ('create_issue', 'run_only')),
  issue_title_template text not null default '',
  concurrency_policy text not null default 'skip' check (concurrency_policy in ('skip', 'queue', 'replace')),
  created_by_type text not null default 'member' check (created_by_type in ('member', 'agent')),
  created_by_id uuid,
  last_run_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index autopilot_workspace_idx on autopilot (workspace_id, created_at desc);

create table autopilot_trigger (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  autopilot_id uuid not null references autopilot on delete cascade,
  kind text not null check (kind in ('schedule', 'webhook', 'api')),
  enabled boolean not null default true,
  cron_expression text,
  timezone text not null default 'UTC',
  next_run_at timestamptz,
  webhook_token text,
  -- Which scheme of signatures and headers its sender uses; the code knows which there are.
  provider text not null default 'generic' check (provider <> ''),
  event_filters jsonb,
  label text not null default '',
  last_fired_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index autopilot_trigger_autopilot_idx on autopilot_trigger (autopilot_id);
create unique index autopilot_trigger_token_key on autopilot_trigger (webhook_token)
  where kind = 'webhook' and webhook_token is not null;

create table autopilot_run (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  autopilot_id uuid not null references autopilot on delete cascade,
  trigger_id uuid references autopilot_trigger on delete set null,
  source text not null check (source in ('schedule', 'manual', 'webhook', 'api')),
  -- issue_created and running are live; the others are final.
  status text not null check (status in ('issue_created', 'running', 'completed', 'failed', 'skipped')),
  issue_id uuid references issue on delete set null,
  task_id uuid references agent_task on delete set null,
  -- What makes a repeat find the run that exists: the delivery it came with, or the key that the caller chose. No foreign
  -- key to the delivery: its row may be purged long before the run.
  webhook_delivery_id uuid,
  idempotency_key text check (length(idempotency_key) between 1 and 255),
  -- Why it was skipped or failed: a word for programs and a text for people.
  reason_code text,
  failure_reason text,
  trigger_payload jsonb,
  result jsonb,
  triggered_at timestamptz not null default now(),
  completed_at timestamptz,
  -- When its end was counted: once, by one process, although whoever ends it may be none of ours.
  counted_at timestamptz,
  created_at timestamptz not null default now()
);
create unique index autopilot_run_delivery_key on autopilot_run (webhook_delivery_id)
  where webhook_delivery_id is not null;
create unique index autopilot_run_idempotency_key on autopilot_run (autopilot_id, idempotency_key)
  where idempotency_key is not null;
create index autopilot_run_autopilot_idx on autopilot_run (autopilot_id, triggered_at desc);
create index autopilot_run_trigger_idx on autopilot_run (trigger_id) where trigger_id is not null;
create index autopilot_run_issue_idx on autopilot_run (issue_id) where issue_id is not null;
create index autopilot_run_task_idx on autopilot_run (task_id) where task_id is not null;
create index autopilot_run_uncounted_idx on autopilot_run (completed_at)
  where counted_at is null and status in ('completed', 'failed');

alter table agent_task
  add constraint agent_task_autopilot_run_fkey foreign key (autopilot_run_id) references autopilot_run on delete cascade,
  add constraint agent_task_autopilot_check check (kind <> 'autopilot' or autopilot_run_id is not null);
create index agent_task_autopilot_run_idx on agent_task (autopilot_run_id) where autopilot_run_id is not null;

-- A run ends with its issue or its task, in the transaction that ends them, whoever makes it. What has ended stays so.

create function end_autopilot_run_of_issue() returns trigger language plpgsql as $$
begin
  if tg_op = 'DELETE' then
    update autopilot_run
    set status = 'failed', reason_code = 'issue_deleted', failure_reason = 'issue deleted', completed_at = now()
    where issue_id = old.id and status = 'issue_created';
    return old;
  end if;
  update autopilot_run
  set status = case when new.status in ('done', 'in_review') then 'completed' else 'failed' end,
    reason_code = case when new.status in ('cancelled', 'blocked') then 'issue_' || new.status end,
    failure_reason = case when new.status in ('cancelled', 'blocked') then 'issue ' || new.status end,
    completed_at = now()
  where issue_id = new.id and status = 'issue_created';
  return new;
end $$;
create trigger issue_end_autopilot_run after update of status on issue for each row
  when (old.status <> new.status and new.status in ('done', 'in_review', 'cancelled', 'blocked'))
  execute function end_autopilot_run_of_issue();
-- Before, because the foreign key has forgotten the issue by then.
create trigger issue_delete_autopilot_run before delete on issue for each row
  execute function end_autopilot_run_of_issue();

-- What people read of a run whose task failed: what the agent said, else how that was classed.
create function autopilot_failure_text(error text, failure_reason text, task_status text)
returns text language sql immutable parallel safe as $$
  select coalesce(nullif(btrim(error), ''), nullif(btrim(failure_reason), ''), 'task ' || task_status)
$$;

create function end_autopilot_run_of_task() returns trigger language plpgsql as $$
begin
  if tg_op = 'DELETE' then
    update autopilot_run
    set status = 'failed', reason_code = 'task_deleted', failure_reason = 'task deleted', completed_at = now()
    where id = old.autopilot_run_id and status = 'running';
    return old;
  end if;
  update autopilot_run
  set status = case new.status when 'completed' then 'completed' else 'failed' end,
    result = case new.status when 'completed' then new.result end,
    reason_code = case when new.status <> 'completed' then 'task_' || new.status end,
    failure_reason = case when new.status <> 'completed'
      then autopilot_failure_text(new.error, new.failure_reason, new.status) end,
    completed_at = now()
  where id = new.autopilot_run_id and status = 'running';
  return new;
end $$;
create trigger agent_task_end_autopilot_run after update of status on agent_task for each row
  when (new.autopilot_run_id is not null and old.status <> new.status
    and new.status in ('completed', 'failed', 'cancelled'))
  execute function end_autopilot_run_of_task();
create trigger agent_task_delete_autopilot_run before delete on agent_task for each row
  when (old.autopilot_run_id is not null) execute function end_autopilot_run_of_task();

-- Live listeners hear of a run's beginning and of its end; one that is skipped ends where it begins.
create function announce_autopilot_run() returns trigger language plpgsql as $$
begin
  perform pg_notify('gateway_event', json_build_object(
    'event', case when new.status in ('issue_created', 'running') then 'autopilot:run_start' else 'autopilot:run_done' end,
    'workspace_id', new.workspace_id, 'autopilot_id', new.autopilot_id, 'run_id', new.id, 'status', new.status)::text);
  return null;
end $$;
create trigger autopilot_run_announce_start after insert on autopilot_run
  for each row execute function announce_autopilot_run();
create trigger autopilot_run_announce_end after update of status on autopilot_run
  for each row when (old.status <> new.status) execute function announce_autopilot_run();
