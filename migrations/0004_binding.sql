-- When a person was last asked to bind their account: at most once in five minutes, whoever asks.
-- depends: 0003_commands

create table channel_binding_prompt (
  installation_id uuid not null,
  channel_user_id text not null check (channel_user_id <> ''),
  prompted_at timestamptz not null default now(),
  primary key (installation_id, channel_user_id)
);
create index channel_binding_prompt_age_idx on channel_binding_prompt (prompted_at);
