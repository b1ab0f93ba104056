-- The log of webhooks: what came, what its signature was worth, what it started; and the secrets that senders sign with.
-- depends: 0012_autopilot

-- Raised whenever something changes that a request is judged by. Whoever judged by an older revision judges again, so
-- that a rotated token or secret counts from its commit on, however long somebody remembers the trigger.
alter table autopilot_trigger add column revision bigint not null default 0;

create function raise_trigger_revision() returns trigger language plpgsql as $$
begin
  new.revision := old.revision + 1;
  return new;
end $$;
create trigger autopilot_trigger_revision before update of webhook_token, provider, event_filters on autopilot_trigger
  for each row when (
    old.webhook_token is distinct from new.webhook_token or old.provider <> new.provider
    or old.event_filters is distinct from new.event_filters)
  execute function raise_trigger_revision();

-- Several may be live at a time: a sender's secret is changed without losing what is under way.
create table webhook_signing_secret (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  trigger_id uuid not null references autopilot_trigger on delete cascade,
  -- Sealed for this row's id.
  secret_encrypted text not null,
  last_four text not null,
  expires_at timestamptz,
  created_by_id uuid,
  created_at timestamptz not null default now()
);
create index webhook_signing_secret_trigger_idx on webhook_signing_secret (trigger_id, created_at);

create function announce_signing_secret() returns trigger language plpgsql as $$
begin
  update autopilot_trigger set revision = revision + 1 where id = coalesce(new.trigger_id, old.trigger_id);
  return null;
end $$;
create trigger webhook_signing_secret_revision after insert or update or delete on webhook_signing_secret
  for each row execute function announce_signing_secret();

-- The words of a body, for searching it. A body may be anything: what is no text has no words, and of one with too many
-- the first part counts. Words are cut at every punctuation mark, so that a value inside JSON is a word of its own.
create function webhook_words(body bytea) returns tsvector language plpgsql immutable strict parallel safe as $$
declare
  said text;
  is_json boolean := false;
begin
  said := convert_from(substring(body from 1 for 262144), 'UTF8');
  if left(said, 8) = 'payload=' or said like '%&payload=%' then
    said := convert_from((
      select string_agg(case when part[1] is null then convert_to(part[2], 'UTF8') else decode(part[1], 'hex') end, ''::bytea)
      from regexp_matches(replace(said, '+', ' '), '%([0-9A-Fa-f]{2})|([^%]+|%)', 'g') as part), 'UTF8');
  end if;
  if position('\u' in said) > 0 then
    -- The cast to json checks the syntax alone, as `is json` does, which PostgreSQL 15 does not have.
    begin
      perform said::json;
      is_json := true;
    exception
      when invalid_text_representation then
        is_json := false;
    end;
  end if;
  if is_json then
    said := replace(said, '\u0000', ' ')::jsonb::text;
  end if;
  return strip(to_tsvector('pg_catalog.simple', translate(said, '{}[]()<>"'':,;=&@/\.-+*#%?!|~^$`', '                                ')));
exception
  when character_not_in_repertoire or untranslatable_character then
    return ''::tsvector;
  when program_limit_exceeded or data_exception then
    return strip(to_tsvector('pg_catalog.simple', left(said, 16384)));
end $$;

-- One row for every request that was worth one: CHECKs say which ones have an autopilot. What a run or a trigger is
-- called stays here after they are gone, hence no foreign keys to them.
create table webhook_delivery (
  id uuid primary key,
  source text not null default 'autopilot' check (source in ('autopilot', 'github_app')),
  workspace_id uuid references workspace on delete cascade,
  autopilot_id uuid references autopilot on delete cascade,
  trigger_id uuid,
  provider text not null default 'generic',
  event text not null default 'webhook.received',
  dedupe_key text,
  dedupe_source text,
  signature_status text not null default 'not_required'
    check (signature_status in ('not_required', 'valid', 'invalid', 'missing')),
  -- Which secret matched; it may be gone by now.
  signing_secret_id uuid,
  status text not null default 'queued' check (status in ('queued', 'dispatched', 'rejected', 'ignored', 'failed')),
  reason_code text,
  attempt_count integer not null default 1,
  selected_headers jsonb not null default '{}',
  content_type text,
  raw_body bytea,
  response_status integer,
  response_body text,
  autopilot_run_id uuid,
  replayed_from_delivery_id uuid,
  replay_idempotency_key text,
  error text,
  -- A row that is still queued then was left behind by whoever received it.
  available_at timestamptz not null default now() + interval '10 seconds',
  dispatch_attempts integer not null default 0,
  received_at timestamptz not null default now(),
  last_attempt_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  search tsvector generated always as (webhook_words(raw_body)) stored,
  constraint webhook_delivery_owner_check check (
    case source when 'autopilot' then num_nulls(workspace_id, autopilot_id, trigger_id) = 0
      else num_nonnulls(autopilot_id, trigger_id) = 0 end)
);
create index webhook_delivery_autopilot_idx on webhook_delivery (autopilot_id, created_at desc, id desc);
create index webhook_delivery_workspace_idx on webhook_delivery (workspace_id, created_at desc, id desc);
create index webhook_delivery_status_idx on webhook_delivery (autopilot_id, status, created_at desc, id desc);
create index webhook_delivery_age_idx on webhook_delivery (created_at);
create index webhook_delivery_queued_idx on webhook_delivery (available_at) where status = 'queued';
create unique index webhook_delivery_dedupe_key on webhook_delivery (trigger_id, dedupe_key)
  where dedupe_key is not null and status not in ('rejected', 'failed');
create unique index webhook_delivery_github_key on webhook_delivery (dedupe_key)
  where source = 'github_app' and dedupe_key is not null and status not in ('rejected', 'failed');
create unique index webhook_delivery_replay_key on webhook_delivery (replayed_from_delivery_id, replay_idempotency_key)
  where replay_idempotency_key is not null;
create index webhook_delivery_search_idx on webhook_delivery using gin (search);

-- How many there are, as differences that are summed up when asked and now and then: counting a million rows takes too
-- long, and one counter that everybody moves would make them wait for each other.
create table webhook_tally (
  workspace_id uuid,
  autopilot_id uuid,
  status text not null,
  rows bigint not null
);
create index webhook_tally_idx on webhook_tally (workspace_id, autopilot_id);

create function tally_added_deliveries() returns trigger language plpgsql as $$
begin
  insert into webhook_tally (workspace_id, autopilot_id, status, rows)
  select workspace_id, autopilot_id, status, count(*) from added group by workspace_id, autopilot_id, status;
  return null;
end $$;
create trigger webhook_delivery_tally_added after insert on webhook_delivery
  referencing new table as added for each statement execute function tally_added_deliveries();

create function tally_gone_deliveries() returns trigger language plpgsql as $$
begin
  insert into webhook_tally (workspace_id, autopilot_id, status, rows)
  select workspace_id, autopilot_id, status, -count(*) from gone group by workspace_id, autopilot_id, status;
  return null;
end $$;
create trigger webhook_delivery_tally_gone after delete on webhook_delivery
  referencing old table as gone for each statement execute function tally_gone_deliveries();

create function tally_moved_delivery() returns trigger language plpgsql as $$
begin
  insert into webhook_tally (workspace_id, autopilot_id, status, rows)
  values (old.workspace_id, old.autopilot_id, old.status, -1), (new.workspace_id, new.autopilot_id, new.status, 1);
  return null;
end $$;
create trigger webhook_delivery_tally_moved after update of status, workspace_id on webhook_delivery for each row
  when (old.status <> new.status or old.workspace_id is distinct from new.workspace_id)
  execute function tally_moved_delivery();

-- A run and the verdict on its delivery commit together: after a crash either both are there or the row is still queued.
-- A row that was decided otherwise meanwhile lets no run begin, so that every delivery is decided once.
create function settle_webhook_delivery() returns trigger language plpgsql as $$
declare
  verdict text;
begin
  update webhook_delivery d
  set status = 'dispatched', autopilot_run_id = new.id, reason_code = new.reason_code, error = null,
    response_status = 200, response_body = json_strip_nulls(json_build_object(
      'status', case new.status when 'skipped' then 'skipped' else 'accepted' end,
      'delivery_id', d.id, 'run_id', new.id,
      'autopilot_id', case when new.status <> 'skipped' then d.autopilot_id end,
      'trigger_id', case when new.status <> 'skipped' then d.trigger_id end,
      'reason', case when new.status = 'skipped' then new.failure_reason end))::text
  where d.id = new.webhook_delivery_id and d.status = 'queued';
  if not found then
    select d.status into verdict from webhook_delivery d where d.id = new.webhook_delivery_id;
    if found then
      raise exception 'the delivery is % already', verdict
        using errcode = 'check_violation', constraint = 'webhook_delivery_decided';
    end if;
  end if;
  return null;
end $$;
create trigger autopilot_run_settle_delivery after insert on autopilot_run for each row
  when (new.webhook_delivery_id is not null) execute function settle_webhook_delivery();

-- Deliveries to be run once more, together. Its progress is the row itself: any process continues where one was killed.
create table webhook_replay (
  id uuid primary key,
  workspace_id uuid not null references workspace on delete cascade,
  autopilot_id uuid not null references autopilot on delete cascade,
  created_by_id uuid,
  filter jsonb not null,
  budget integer not null check (budget > 0),
  planned integer not null,
  status text not null default 'running' check (status in ('running', 'completed', 'cancelled')),
  accepted integer not null default 0,
  skipped integer not null default 0,
  failed integer not null default 0,
  -- What came later is not part of it. The cursor is the last delivery that was gone through.
  until_at timestamptz not null default now(),
  cursor_at timestamptz not null default 'epoch',
  cursor_id uuid not null default '00000000-0000-0000-0000-000000000000',
  leased_until timestamptz not null default '-infinity',
  lease_token uuid,
  created_at timestamptz not null default now(),
  finished_at timestamptz
);
create index webhook_replay_autopilot_idx on webhook_replay (autopilot_id, created_at desc);
create index webhook_replay_running_idx on webhook_replay (leased_until) where status = 'running';
