-- While a run lasts, the message it answers carries a sign of it on its platform.
-- depends: 0006_attachments

-- One row per run and message. `wanted`: to be shown; once a call was begun (attempts > 0) it may be there already.
-- `shown`: it is there, and reaction_id is how the platform calls it. `unwanted`: to be taken away; attempts count from
-- the start again, and without a reaction_id nobody knows whether there is one. `gone` and `failed` are settled.
create table channel_typing (
  id uuid primary key,
  workspace_id uuid not null,
  installation_id uuid not null,
  task_id uuid not null,
  channel_message_id text not null check (channel_message_id <> ''),
  reaction_id text,
  status text not null default 'wanted' check (status in ('wanted', 'shown', 'unwanted', 'gone', 'failed')),
  attempts integer not null default 0,
  available_at timestamptz not null default now(),
  -- Later than this the message is too old to begin with it.
  show_before timestamptz not null,
  lease_epoch bigint,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint channel_typing_message_key unique (task_id, channel_message_id)
);
create index channel_typing_open_idx on channel_typing (installation_id) where status in ('wanted', 'shown', 'unwanted');
create index channel_typing_age_idx on channel_typing (created_at);

create trigger channel_typing_announce after insert or update of status on channel_typing
  for each row when (new.status in ('wanted', 'unwanted')) execute function announce_outbound();

-- A run ends in many ways: with its answer, failed, cancelled, back in the queue, or deleted with its conversation. Each
-- of them ends the sign in the same transaction, whoever makes it. What was never begun needs no call.
create function end_typing() returns trigger language plpgsql as $$
begin
  update channel_typing
  set status = case when attempts = 0 then 'gone' else 'unwanted' end, attempts = 0, available_at = now(),
    updated_at = now()
  where task_id = old.id and status in ('wanted', 'shown');
  return null;
end $$;
create trigger agent_task_end_typing after update of status on agent_task for each row
  when (old.status in ('dispatched', 'running') and new.status not in ('dispatched', 'running'))
  execute function end_typing();
create trigger agent_task_delete_typing after delete on agent_task for each row
  when (old.status in ('dispatched', 'running')) execute function end_typing();
