-- Why nobody runs an agent, and what a conversation was told of it: once for each absence, and not once for each message.
-- depends: 0018_attempt

-- When its runtime was last given or taken away. Null for what was so before anybody asked.
alter table agent add column runtime_set_at timestamptz;

create function note_runtime_set() returns trigger language plpgsql as $$
begin
  new.runtime_set_at := now();
  return new;
end $$;
create trigger agent_note_runtime_set before update of runtime_id on agent for each row
  when (old.runtime_id is distinct from new.runtime_id) execute function note_runtime_set();

-- The absence that the conversation was told of last.
alter table channel_chat_session_binding add column absence_told text;

-- A name for this absence of the agent and for no other one; null while its runtime is heard of. A runtime that comes
-- back and goes silent again is another absence, and so is a second archiving. Numbers rather than times, because how a
-- time is written depends on the connection.
create function agent_absence(
  archived_at timestamptz, runtime_id uuid, runtime_set_at timestamptz, last_heartbeat_at timestamptz,
  silent_seconds double precision
) returns text language sql stable parallel safe as $$
  select case
    when archived_at is not null then 'archived ' || extract(epoch from archived_at)
    when runtime_id is null then 'no runtime ' || coalesce(extract(epoch from runtime_set_at), 0)
    when coalesce(last_heartbeat_at, '-infinity') < now() - make_interval(secs => silent_seconds)
      then 'silent ' || runtime_id || ' ' || coalesce(extract(epoch from last_heartbeat_at), 0)
  end
$$;
