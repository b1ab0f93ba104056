--
-- PostgreSQL database dump
--

\restrict gateway


SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: agent_absence(timestamp with time zone, uuid, timestamp with time zone, timestamp with time zone, double precision); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.agent_absence(archived_at timestamp with time zone, runtime_id uuid, runtime_set_at timestamp with time zone, last_heartbeat_at timestamp with time zone, silent_seconds double precision) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select case
    when archived_at is not null then 'archived ' || extract(epoch from archived_at)
    when runtime_id is null then 'no runtime ' || coalesce(extract(epoch from runtime_set_at), 0)
    when coalesce(last_heartbeat_at, '-infinity') < now() - make_interval(secs => silent_seconds)
      then 'silent ' || runtime_id || ' ' || coalesce(extract(epoch from last_heartbeat_at), 0)
  end
$$;


--
-- Name: announce_autopilot_run(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.announce_autopilot_run() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  perform pg_notify('gateway_event', json_build_object(
    'event', case when new.status in ('issue_created', 'running') then 'autopilot:run_start' else 'autopilot:run_done' end,
    'workspace_id', new.workspace_id, 'autopilot_id', new.autopilot_id, 'run_id', new.id, 'status', new.status)::text);
  return null;
end $$;


--
-- Name: announce_installation(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.announce_installation() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  perform pg_notify('gateway_installation', coalesce(new.id, old.id)::text);
  return null;
end $$;


--
-- Name: announce_outbound(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.announce_outbound() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  perform pg_notify('gateway_outbound', new.installation_id::text);
  return null;
end $$;


--
-- Name: announce_signing_secret(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.announce_signing_secret() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  update autopilot_trigger set revision = revision + 1 where id = coalesce(new.trigger_id, old.trigger_id);
  return null;
end $$;


--
-- Name: announce_webhook_token(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.announce_webhook_token() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  perform pg_notify('gateway_webhook',
    encode(substring(sha256(convert_to(new.webhook_token, 'UTF8')) for 8), 'hex'));
  return null;
end $$;


--
-- Name: autopilot_failure_text(text, text, text); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.autopilot_failure_text(error text, failure_reason text, task_status text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
  select coalesce(nullif(btrim(error), ''), nullif(btrim(failure_reason), ''), 'task ' || task_status)
$$;


--
-- Name: end_autopilot_run_of_issue(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.end_autopilot_run_of_issue() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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


--
-- Name: end_autopilot_run_of_task(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.end_autopilot_run_of_task() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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


--
-- Name: end_typing(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.end_typing() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  update channel_typing
  set status = case when attempts = 0 then 'gone' else 'unwanted' end, attempts = 0, available_at = now(),
    updated_at = now()
  where task_id = old.id and status in ('wanted', 'shown');
  return null;
end $$;


--
-- Name: held_for_typing(uuid, timestamp with time zone, double precision); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.held_for_typing(of_task_id uuid, created_at timestamp with time zone, seconds double precision) RETURNS SETOF timestamp with time zone
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select created_at + make_interval(secs => seconds)
  where of_task_id is not null and created_at > now() - make_interval(secs => seconds) and exists (
    select from channel_typing typing
    where typing.task_id = of_task_id and typing.status = 'unwanted' and typing.available_at <= now()
  )
$$;


--
-- Name: issue_title_key(text); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.issue_title_key(title text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
  select md5(lower(btrim(regexp_replace(title, '\s+', ' ', 'g'))))
$$;


--
-- Name: must_ring(timestamp with time zone); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.must_ring(former_start timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select former_start is null or former_start <= now() + interval '1 second'
$$;


--
-- Name: note_runtime_set(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.note_runtime_set() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  new.runtime_set_at := now();
  return new;
end $$;


--
-- Name: raise_trigger_revision(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.raise_trigger_revision() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  new.revision := old.revision + 1;
  return new;
end $$;


--
-- Name: replayable_deliveries(uuid, text, text, text, timestamp with time zone, timestamp with time zone); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.replayable_deliveries(of_autopilot_id uuid, of_status text, of_event text, words text, since timestamp with time zone, until timestamp with time zone) RETURNS TABLE(id uuid, created_at timestamp with time zone)
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select delivery.id, delivery.created_at
  from webhook_delivery delivery
  where delivery.autopilot_id = of_autopilot_id and delivery.status not in ('rejected', 'queued')
    and delivery.signature_status <> 'invalid' and delivery.raw_body is not null
    and (of_status is null or delivery.status = of_status) and (of_event is null or delivery.event = of_event)
    and (words is null or delivery.search @@ words::tsquery)
    and (since is null or delivery.received_at >= since) and (until is null or delivery.received_at < until)
$$;


--
-- Name: runtimes_awaiting_file(uuid, uuid); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.runtimes_awaiting_file(session_id uuid, of_issue_id uuid) RETURNS TABLE(runtime_id uuid)
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select agent.runtime_id
  from (
    select task.agent_id from agent_task task
    where task.chat_session_id = session_id and task.status = 'queued' and task.kind = 'chat'
    union
    select task.agent_id from agent_task task
    where task.issue_id = of_issue_id and task.status = 'queued' and task.kind = 'issue'
  ) waiting
  join agent on agent.id = waiting.agent_id
  where agent.runtime_id is not null
$$;


--
-- Name: settle_webhook_delivery(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.settle_webhook_delivery() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
declare
  verdict text;
begin
  update webhook_delivery d
  set status = 'dispatched', autopilot_run_id = new.id, reason_code = new.reason_code, error = null, last_attempt_at = now(),
    response_status = 200, response_body = coalesce(d.response_body, json_strip_nulls(json_build_object(
      'status', case new.status when 'skipped' then 'skipped' else 'accepted' end,
      'delivery_id', d.id, 'run_id', new.id,
      'autopilot_id', case when new.status <> 'skipped' then d.autopilot_id end,
      'trigger_id', case when new.status <> 'skipped' then d.trigger_id end,
      'reason', case when new.status = 'skipped' then new.failure_reason end))::text)
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


--
-- Name: tally_added_deliveries(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.tally_added_deliveries() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  insert into webhook_tally (workspace_id, autopilot_id, status, rows)
  select workspace_id, autopilot_id, status, count(*) from added group by workspace_id, autopilot_id, status;
  return null;
end $$;


--
-- Name: tally_gone_deliveries(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.tally_gone_deliveries() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  insert into webhook_tally (workspace_id, autopilot_id, status, rows)
  select workspace_id, autopilot_id, status, -count(*) from gone group by workspace_id, autopilot_id, status;
  return null;
end $$;


--
-- Name: tally_moved_delivery(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.tally_moved_delivery() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  insert into webhook_tally (workspace_id, autopilot_id, status, rows)
  values (old.workspace_id, old.autopilot_id, old.status, -1), (new.workspace_id, new.autopilot_id, new.status, 1);
  return null;
end $$;


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: agent_task; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.agent_task (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    runtime_id uuid,
    kind text NOT NULL,
    status text DEFAULT 'queued'::text NOT NULL,
    priority integer DEFAULT 2 NOT NULL,
    chat_session_id uuid,
    issue_id uuid,
    autopilot_run_id uuid,
    initiator_user_id uuid,
    context_generation integer DEFAULT 0 NOT NULL,
    attempt integer DEFAULT 1 NOT NULL,
    max_attempts integer DEFAULT 3 NOT NULL,
    available_at timestamp with time zone DEFAULT now() NOT NULL,
    dispatched_at timestamp with time zone,
    started_at timestamp with time zone,
    seen_at timestamp with time zone,
    completed_at timestamp with time zone,
    progress text,
    result jsonb,
    error text,
    failure_reason text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    undelivered integer DEFAULT 0 NOT NULL,
    instance text,
    forgiven integer DEFAULT 0 NOT NULL,
    reported_attempt integer,
    stderr_tail text,
    CONSTRAINT agent_task_autopilot_check CHECK (((kind <> 'autopilot'::text) OR (autopilot_run_id IS NOT NULL))),
    CONSTRAINT agent_task_check CHECK (((kind <> 'chat'::text) OR (chat_session_id IS NOT NULL))),
    CONSTRAINT agent_task_check1 CHECK (((kind <> 'issue'::text) OR (issue_id IS NOT NULL))),
    CONSTRAINT agent_task_kind_check CHECK ((kind = ANY (ARRAY['chat'::text, 'issue'::text, 'autopilot'::text]))),
    CONSTRAINT agent_task_max_attempts_check CHECK ((max_attempts >= 1)),
    CONSTRAINT agent_task_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'dispatched'::text, 'running'::text, 'completed'::text, 'failed'::text, 'cancelled'::text]))),
    CONSTRAINT agent_task_stderr_tail_check CHECK ((octet_length(stderr_tail) <= 4096))
);


--
-- Name: task_detail(public.agent_task); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.task_detail(task public.agent_task) RETURNS TABLE(id uuid, workspace_id uuid, agent_id uuid, runtime_id uuid, agent_runtime_id uuid, kind text, status text, chat_session_id uuid, issue_id uuid, attempt integer, forgiven integer, reported_attempt integer, max_attempts integer, progress text, result jsonb, error text, failure_reason text, stderr_tail text, available_at timestamp with time zone, dispatched_at timestamp with time zone, started_at timestamp with time zone, completed_at timestamp with time zone, created_at timestamp with time zone, undelivered integer, language text, run_seconds double precision)
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select task.id, task.workspace_id, task.agent_id, task.runtime_id, agent.runtime_id, task.kind, task.status,
    task.chat_session_id, task.issue_id, task.attempt, task.forgiven, task.reported_attempt, task.max_attempts,
    task.progress, task.result, task.error, task.failure_reason, task.stderr_tail, task.available_at,
    task.dispatched_at, task.started_at, task.completed_at, task.created_at, task.undelivered, workspace.language,
    extract(epoch from now() - task.dispatched_at)::double precision
  from agent
  join workspace on workspace.id = task.workspace_id
  where agent.id = task.agent_id
$$;


--
-- Name: unobstructed(uuid, uuid, uuid); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.unobstructed(of_agent_id uuid, of_session_id uuid, of_issue_id uuid) RETURNS SETOF boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select true
  where not exists (
      select from agent_task active
      where active.agent_id = of_agent_id and active.status in ('dispatched', 'running')
        and (active.chat_session_id = of_session_id or active.issue_id = of_issue_id)
    )
    and not exists (
      select from chat_attachment awaited
      where awaited.chat_session_id = of_session_id and awaited.issue_id is null
        and awaited.status = 'pending' and awaited.deadline_at > now()
    )
    and not exists (
      select from chat_attachment awaited
      where awaited.issue_id = of_issue_id and awaited.status = 'pending' and awaited.deadline_at > now()
    )
$$;


--
-- Name: visible_autopilots(uuid); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.visible_autopilots(to_user_id uuid) RETURNS TABLE(id uuid, workspace_id uuid, project_id uuid, title text, description text, assignee_type text, assignee_id uuid, assigned_by_id uuid, priority text, status text, execution_mode text, issue_title_template text, concurrency_policy text, created_by_type text, created_by_id uuid, last_run_at timestamp with time zone, created_at timestamp with time zone, updated_at timestamp with time zone, role text)
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select autopilot.id, autopilot.workspace_id, autopilot.project_id, autopilot.title, autopilot.description,
    autopilot.assignee_type, autopilot.assignee_id, autopilot.assigned_by_id, autopilot.priority, autopilot.status,
    autopilot.execution_mode, autopilot.issue_title_template, autopilot.concurrency_policy, autopilot.created_by_type,
    autopilot.created_by_id, autopilot.last_run_at, autopilot.created_at, autopilot.updated_at, member.role
  from autopilot
  join member on member.workspace_id = autopilot.workspace_id and member.user_id = to_user_id
$$;


--
-- Name: visible_chats(uuid); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.visible_chats(to_user_id uuid) RETURNS TABLE(id uuid, workspace_id uuid, agent_id uuid, agent_name text, creator_id uuid, title text, context_generation integer, channel_type text, chat_type text, installation_id uuid, archived_at timestamp with time zone, created_at timestamp with time zone, updated_at timestamp with time zone, deletable boolean)
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select session.id, session.workspace_id, session.agent_id, agent.name, session.creator_id, session.title,
    session.context_generation, conversation.channel_type, conversation.chat_type, conversation.installation_id,
    session.archived_at, session.created_at, session.updated_at,
    (viewer.role in ('owner', 'admin') or (viewer.role <> 'guest'
      and viewer.user_id in (session.creator_id, agent.owner_id))) is true
  from chat_session session
  join member viewer on viewer.workspace_id = session.workspace_id and viewer.user_id = to_user_id
  join agent on agent.id = session.agent_id
  left join channel_chat_session_binding conversation on conversation.chat_session_id = session.id
    and conversation.workspace_id = session.workspace_id
  where agent.visibility <> 'private' or viewer.role in ('owner', 'admin') or viewer.user_id = session.creator_id
    or (viewer.role <> 'guest' and viewer.user_id = agent.owner_id)
$$;


--
-- Name: webhook_words(bytea); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.webhook_words(body bytea) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $_$
declare
  said text;
begin
  said := convert_from(substring(body from 1 for 262144), 'UTF8');
  if left(said, 8) = 'payload=' or said like '%&payload=%' then
    said := convert_from((
      select string_agg(case when part[1] is null then convert_to(part[2], 'UTF8') else decode(part[1], 'hex') end, ''::bytea)
      from regexp_matches(replace(said, '+', ' '), '%([0-9A-Fa-f]{2})|([^%]+|%)', 'g') as part), 'UTF8');
  end if;
  -- jsonb would write out a number such as 1e99999 in full. Texts are left out of the search for one.
  if position('\u' in said) > 0 and regexp_replace(said, '"([^"\\]|\\.)*"', '', 'g') !~ '[0-9][eE][+-]?[0-9]{3}' then
    begin
      said := replace(said, '\u0000', ' ')::jsonb::text;
    exception when data_exception then
      null; -- no JSON: its words are found as they were written
    end;
  end if;
  return strip(to_tsvector('pg_catalog.simple', translate(said, '{}[]()<>"'':,;=&@/\.-+*#%?!|~^$`', '                                ')));
exception
  when character_not_in_repertoire or untranslatable_character then
    return ''::tsvector;
  when program_limit_exceeded or data_exception then
    return strip(to_tsvector('pg_catalog.simple', left(said, 16384)));
end $_$;


--
-- Name: agent; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.agent (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    name text NOT NULL,
    owner_id uuid,
    runtime_id uuid,
    visibility text DEFAULT 'workspace'::text NOT NULL,
    max_concurrent_tasks integer DEFAULT 6 NOT NULL,
    archived_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    runtime_set_at timestamp with time zone,
    CONSTRAINT agent_max_concurrent_tasks_check CHECK ((max_concurrent_tasks > 0)),
    CONSTRAINT agent_name_check CHECK ((name <> ''::text)),
    CONSTRAINT agent_visibility_check CHECK ((visibility = ANY (ARRAY['workspace'::text, 'private'::text])))
);


--
-- Name: agent_runtime; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.agent_runtime (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    name text NOT NULL,
    kind text DEFAULT ''::text NOT NULL,
    version text DEFAULT ''::text NOT NULL,
    last_heartbeat_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT agent_runtime_name_check CHECK ((name <> ''::text))
);


--
-- Name: api_token; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.api_token (
    id uuid NOT NULL,
    token_hash text NOT NULL,
    user_id uuid,
    runtime_id uuid,
    name text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_used_at timestamp with time zone,
    revoked_at timestamp with time zone,
    CONSTRAINT api_token_check CHECK ((num_nonnulls(user_id, runtime_id) = 1)),
    CONSTRAINT api_token_token_hash_check CHECK ((token_hash ~ '^[0-9a-f]{64}$'::text))
);


--
-- Name: app_user; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.app_user (
    id uuid NOT NULL,
    email text NOT NULL,
    name text DEFAULT ''::text NOT NULL,
    password_hash text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT app_user_email_check CHECK (((email = lower(email)) AND (POSITION(('@'::text) IN (email)) > 1)))
);


--
-- Name: autopilot; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.autopilot (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    project_id uuid,
    title text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    assignee_type text DEFAULT 'agent'::text NOT NULL,
    assignee_id uuid NOT NULL,
    assigned_by_id uuid,
    priority text DEFAULT 'medium'::text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    execution_mode text DEFAULT 'create_issue'::text NOT NULL,
    issue_title_template text DEFAULT ''::text NOT NULL,
    concurrency_policy text DEFAULT 'skip'::text NOT NULL,
    created_by_type text DEFAULT 'member'::text NOT NULL,
    created_by_id uuid,
    last_run_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT autopilot_assignee_type_check CHECK ((assignee_type = ANY (ARRAY['agent'::text, 'squad'::text]))),
    CONSTRAINT autopilot_concurrency_policy_check CHECK ((concurrency_policy = ANY (ARRAY['skip'::text, 'queue'::text, 'replace'::text]))),
    CONSTRAINT autopilot_created_by_type_check CHECK ((created_by_type = ANY (ARRAY['member'::text, 'agent'::text]))),
    CONSTRAINT autopilot_execution_mode_check CHECK ((execution_mode = ANY (ARRAY['create_issue'::text, 'run_only'::text]))),
    CONSTRAINT autopilot_priority_check CHECK ((priority = ANY (ARRAY['urgent'::text, 'high'::text, 'medium'::text, 'low'::text, 'none'::text]))),
    CONSTRAINT autopilot_status_check CHECK ((status = ANY (ARRAY['active'::text, 'paused'::text, 'archived'::text]))),
    CONSTRAINT autopilot_title_check CHECK ((title <> ''::text))
);


--
-- Name: autopilot_run; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.autopilot_run (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    autopilot_id uuid NOT NULL,
    trigger_id uuid,
    source text NOT NULL,
    status text NOT NULL,
    issue_id uuid,
    task_id uuid,
    webhook_delivery_id uuid,
    idempotency_key text,
    reason_code text,
    failure_reason text,
    trigger_payload json,
    result jsonb,
    triggered_at timestamp with time zone DEFAULT now() NOT NULL,
    completed_at timestamp with time zone,
    counted_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT autopilot_run_idempotency_key_check CHECK (((length(idempotency_key) >= 1) AND (length(idempotency_key) <= 255))),
    CONSTRAINT autopilot_run_source_check CHECK ((source = ANY (ARRAY['schedule'::text, 'manual'::text, 'webhook'::text, 'api'::text]))),
    CONSTRAINT autopilot_run_status_check CHECK ((status = ANY (ARRAY['issue_created'::text, 'running'::text, 'completed'::text, 'failed'::text, 'skipped'::text])))
);


--
-- Name: autopilot_trigger; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.autopilot_trigger (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    autopilot_id uuid NOT NULL,
    kind text NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    cron_expression text,
    timezone text DEFAULT 'UTC'::text NOT NULL,
    next_run_at timestamp with time zone,
    webhook_token text,
    provider text DEFAULT 'generic'::text NOT NULL,
    event_filters jsonb,
    label text DEFAULT ''::text NOT NULL,
    last_fired_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    revision bigint DEFAULT 0 NOT NULL,
    CONSTRAINT autopilot_trigger_kind_check CHECK ((kind = ANY (ARRAY['schedule'::text, 'webhook'::text, 'api'::text]))),
    CONSTRAINT autopilot_trigger_provider_check CHECK ((provider <> ''::text))
);


--
-- Name: channel_binding_prompt; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.channel_binding_prompt (
    installation_id uuid NOT NULL,
    channel_user_id text NOT NULL,
    prompted_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT channel_binding_prompt_channel_user_id_check CHECK ((channel_user_id <> ''::text))
);


--
-- Name: channel_binding_token; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.channel_binding_token (
    token_hash text NOT NULL,
    workspace_id uuid NOT NULL,
    installation_id uuid NOT NULL,
    channel_type text NOT NULL,
    channel_user_id text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    consumed_at timestamp with time zone,
    CONSTRAINT channel_binding_token_check CHECK ((expires_at <= (created_at + '00:15:00'::interval))),
    CONSTRAINT channel_binding_token_token_hash_check CHECK ((token_hash ~ '^[0-9a-f]{64}$'::text))
);


--
-- Name: channel_chat_session_binding; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.channel_chat_session_binding (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    chat_session_id uuid NOT NULL,
    installation_id uuid NOT NULL,
    channel_type text NOT NULL,
    channel_chat_id text NOT NULL,
    chat_type text NOT NULL,
    last_message_id text,
    last_thread_id text,
    config jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    absence_told text,
    CONSTRAINT channel_chat_session_binding_channel_chat_id_check CHECK ((channel_chat_id <> ''::text)),
    CONSTRAINT channel_chat_session_binding_chat_type_check CHECK ((chat_type = ANY (ARRAY['p2p'::text, 'group'::text])))
);


--
-- Name: channel_connection; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.channel_connection (
    installation_id uuid NOT NULL,
    state text NOT NULL,
    code bigint DEFAULT 0 NOT NULL,
    detail text DEFAULT ''::text NOT NULL,
    node text DEFAULT ''::text NOT NULL,
    lease_epoch bigint DEFAULT 0 NOT NULL,
    last_frame_at timestamp with time zone,
    last_event_at timestamp with time zone,
    pong_ms double precision,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    degraded_until timestamp with time zone,
    CONSTRAINT channel_connection_state_check CHECK ((state = ANY (ARRAY['connecting'::text, 'live'::text, 'deaf'::text, 'refused'::text, 'standby'::text, 'http'::text, 'unreadable_secret'::text, 'revoked'::text])))
);


--
-- Name: channel_inbound_audit; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.channel_inbound_audit (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    installation_id uuid,
    channel_type text NOT NULL,
    channel_chat_id text DEFAULT ''::text NOT NULL,
    event_type text DEFAULT ''::text NOT NULL,
    channel_event_id text DEFAULT ''::text NOT NULL,
    channel_message_id text DEFAULT ''::text NOT NULL,
    drop_reason text NOT NULL,
    received_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT channel_inbound_audit_drop_reason_check CHECK ((drop_reason = ANY (ARRAY['unbound_user'::text, 'non_workspace_member'::text, 'not_addressed_in_group'::text, 'duplicate'::text, 'revoked_installation'::text, 'invalid_event'::text, 'sender_is_bot'::text])))
);


--
-- Name: channel_inbound_message_dedup; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.channel_inbound_message_dedup (
    installation_id uuid NOT NULL,
    message_id text NOT NULL,
    received_at timestamp with time zone DEFAULT now() NOT NULL,
    processed_at timestamp with time zone,
    claim_token uuid NOT NULL
);


--
-- Name: channel_installation; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.channel_installation (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    channel_type text NOT NULL,
    config jsonb DEFAULT '{}'::jsonb NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    installer_user_id uuid,
    ws_lease_token text,
    ws_lease_expires_at timestamp with time zone,
    lease_epoch bigint DEFAULT 0 NOT NULL,
    installed_at timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT channel_installation_channel_type_check CHECK ((channel_type <> ''::text)),
    CONSTRAINT channel_installation_region_check CHECK (((channel_type <> 'feishu'::text) OR (COALESCE((config ->> 'region'::text), 'feishu'::text) = ANY (ARRAY['feishu'::text, 'lark'::text])))),
    CONSTRAINT channel_installation_status_check CHECK ((status = ANY (ARRAY['active'::text, 'revoked'::text])))
);


--
-- Name: channel_outbound_card_message; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.channel_outbound_card_message (
    id uuid NOT NULL,
    chat_session_id uuid NOT NULL,
    task_id uuid,
    channel_type text NOT NULL,
    channel_chat_id text NOT NULL,
    channel_card_message_id text NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    last_patched_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT channel_outbound_card_message_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'streaming'::text, 'final'::text, 'error'::text])))
);


--
-- Name: channel_pending_command; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.channel_pending_command (
    chat_session_id uuid NOT NULL,
    user_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    installation_id uuid NOT NULL,
    chat_message_id uuid NOT NULL,
    words text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: channel_typing; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.channel_typing (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    installation_id uuid NOT NULL,
    task_id uuid NOT NULL,
    channel_message_id text NOT NULL,
    reaction_id text,
    status text DEFAULT 'wanted'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    available_at timestamp with time zone DEFAULT now() NOT NULL,
    show_before timestamp with time zone NOT NULL,
    lease_epoch bigint,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT channel_typing_channel_message_id_check CHECK ((channel_message_id <> ''::text)),
    CONSTRAINT channel_typing_status_check CHECK ((status = ANY (ARRAY['wanted'::text, 'shown'::text, 'unwanted'::text, 'gone'::text, 'failed'::text])))
);


--
-- Name: channel_user_binding; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.channel_user_binding (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    user_id uuid NOT NULL,
    installation_id uuid NOT NULL,
    channel_type text NOT NULL,
    channel_user_id text NOT NULL,
    config jsonb DEFAULT '{}'::jsonb NOT NULL,
    bound_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT channel_user_binding_channel_user_id_check CHECK ((channel_user_id <> ''::text))
);


--
-- Name: chat_attachment; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.chat_attachment (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    installation_id uuid NOT NULL,
    chat_session_id uuid NOT NULL,
    chat_message_id uuid NOT NULL,
    n integer NOT NULL,
    kind text NOT NULL,
    channel_message_id text NOT NULL,
    channel_key text NOT NULL,
    name text DEFAULT ''::text NOT NULL,
    mime_type text DEFAULT ''::text NOT NULL,
    bytes bigint,
    status text DEFAULT 'pending'::text NOT NULL,
    error text,
    issue_id uuid,
    taken_at timestamp with time zone,
    deadline_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    fetched_at timestamp with time zone,
    CONSTRAINT chat_attachment_channel_key_check CHECK ((channel_key <> ''::text)),
    CONSTRAINT chat_attachment_channel_message_id_check CHECK ((channel_message_id <> ''::text)),
    CONSTRAINT chat_attachment_check CHECK (((status = 'failed'::text) = (error IS NOT NULL))),
    CONSTRAINT chat_attachment_check1 CHECK (((status <> 'ready'::text) OR (bytes IS NOT NULL))),
    CONSTRAINT chat_attachment_kind_check CHECK ((kind = ANY (ARRAY['image'::text, 'file'::text, 'audio'::text, 'video'::text]))),
    CONSTRAINT chat_attachment_n_check CHECK ((n >= 1)),
    CONSTRAINT chat_attachment_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'ready'::text, 'failed'::text])))
);


--
-- Name: chat_message; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.chat_message (
    id uuid NOT NULL,
    seq bigint NOT NULL,
    chat_session_id uuid NOT NULL,
    role text NOT NULL,
    kind text DEFAULT 'text'::text NOT NULL,
    content text NOT NULL,
    author_user_id uuid,
    task_id uuid,
    context_generation integer DEFAULT 0 NOT NULL,
    sent_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    channel_message_id text,
    quoted_message_id text,
    bundle boolean DEFAULT false NOT NULL,
    CONSTRAINT chat_message_kind_check CHECK ((kind = ANY (ARRAY['text'::text, 'channel_command'::text]))),
    CONSTRAINT chat_message_role_check CHECK ((role = ANY (ARRAY['user'::text, 'assistant'::text, 'system'::text])))
);


--
-- Name: chat_message_seq_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.chat_message ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.chat_message_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: chat_session; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.chat_session (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    creator_id uuid,
    title text DEFAULT ''::text NOT NULL,
    context_generation integer DEFAULT 0 NOT NULL,
    archived_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: issue; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.issue (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    project_id uuid,
    parent_issue_id uuid,
    number bigint NOT NULL,
    title text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    status text DEFAULT 'todo'::text NOT NULL,
    priority text DEFAULT 'none'::text NOT NULL,
    "position" double precision DEFAULT 0 NOT NULL,
    stage integer,
    assignee_type text,
    assignee_id uuid,
    creator_type text DEFAULT 'member'::text NOT NULL,
    creator_id uuid,
    origin_type text,
    origin_id uuid,
    first_executed_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT issue_assignee_type_check CHECK ((assignee_type = ANY (ARRAY['member'::text, 'agent'::text, 'squad'::text]))),
    CONSTRAINT issue_check CHECK (((assignee_type IS NULL) = (assignee_id IS NULL))),
    CONSTRAINT issue_creator_type_check CHECK ((creator_type = ANY (ARRAY['member'::text, 'agent'::text, 'system'::text]))),
    CONSTRAINT issue_origin_type_check CHECK ((origin_type = ANY (ARRAY['quick_create'::text, 'autopilot'::text, 'lark_chat'::text]))),
    CONSTRAINT issue_priority_check CHECK ((priority = ANY (ARRAY['urgent'::text, 'high'::text, 'medium'::text, 'low'::text, 'none'::text]))),
    CONSTRAINT issue_stage_check CHECK ((stage >= 1)),
    CONSTRAINT issue_status_check CHECK ((status = ANY (ARRAY['backlog'::text, 'todo'::text, 'in_progress'::text, 'in_review'::text, 'done'::text, 'blocked'::text, 'cancelled'::text])))
);


--
-- Name: issue_comment; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.issue_comment (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    issue_id uuid NOT NULL,
    author_type text NOT NULL,
    author_id uuid,
    kind text DEFAULT 'comment'::text NOT NULL,
    body text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT issue_comment_author_type_check CHECK ((author_type = ANY (ARRAY['member'::text, 'agent'::text, 'system'::text]))),
    CONSTRAINT issue_comment_kind_check CHECK ((kind = ANY (ARRAY['comment'::text, 'system'::text]))),
    CONSTRAINT issue_comment_system_author_check CHECK (((author_type <> 'system'::text) OR (NOT (author_id IS DISTINCT FROM '00000000-0000-0000-0000-000000000000'::uuid))))
);


--
-- Name: lark_install_session; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.lark_install_session (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    initiator_user_id uuid NOT NULL,
    region text NOT NULL,
    polled_region text NOT NULL,
    device_code bytea,
    credentials bytea,
    interval_seconds double precision NOT NULL,
    next_poll_at timestamp with time zone NOT NULL,
    deadline timestamp with time zone NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    error_reason text,
    error_message text DEFAULT ''::text NOT NULL,
    installation_id uuid,
    poller uuid,
    poller_until timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone,
    replaces boolean DEFAULT false NOT NULL,
    vouched boolean DEFAULT false NOT NULL,
    CONSTRAINT lark_install_session_check CHECK (((status = 'pending'::text) = (ended_at IS NULL))),
    CONSTRAINT lark_install_session_check1 CHECK (((status = 'error'::text) = (error_reason IS NOT NULL))),
    CONSTRAINT lark_install_session_check2 CHECK (((status = 'success'::text) = (installation_id IS NOT NULL))),
    CONSTRAINT lark_install_session_check3 CHECK (((status = 'pending'::text) = (device_code IS NOT NULL))),
    CONSTRAINT lark_install_session_check4 CHECK (((status = 'pending'::text) OR (credentials IS NULL))),
    CONSTRAINT lark_install_session_error_reason_check CHECK ((error_reason = ANY (ARRAY['expired'::text, 'access_denied'::text, 'lark_protocol_error'::text, 'bot_info_failed'::text, 'installation_conflict'::text, 'agent_has_bot'::text, 'forbidden'::text, 'installer_bind_failed'::text, 'internal_error'::text]))),
    CONSTRAINT lark_install_session_interval_seconds_check CHECK ((interval_seconds > (0)::double precision)),
    CONSTRAINT lark_install_session_polled_region_check CHECK ((polled_region = ANY (ARRAY['feishu'::text, 'lark'::text]))),
    CONSTRAINT lark_install_session_region_check CHECK ((region = ANY (ARRAY['feishu'::text, 'lark'::text]))),
    CONSTRAINT lark_install_session_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'success'::text, 'error'::text])))
);


--
-- Name: member; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.member (
    workspace_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT member_role_check CHECK ((role = ANY (ARRAY['owner'::text, 'admin'::text, 'member'::text, 'guest'::text])))
);


--
-- Name: outbound_message; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.outbound_message (
    id uuid NOT NULL,
    seq bigint NOT NULL,
    workspace_id uuid NOT NULL,
    installation_id uuid NOT NULL,
    chat_session_id uuid,
    task_id uuid,
    kind text NOT NULL,
    recipient_type text DEFAULT 'chat'::text NOT NULL,
    recipient_id text NOT NULL,
    thread_id text,
    reply_to_message_id text,
    content text DEFAULT ''::text NOT NULL,
    status text DEFAULT 'queued'::text NOT NULL,
    uuid text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    available_at timestamp with time zone DEFAULT now() NOT NULL,
    first_attempt_at timestamp with time zone,
    last_attempt_at timestamp with time zone,
    sent_at timestamp with time zone,
    lease_epoch bigint,
    channel_message_id text,
    error_code bigint,
    error text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    part smallint DEFAULT 0 NOT NULL,
    title text DEFAULT ''::text NOT NULL,
    CONSTRAINT outbound_message_kind_check CHECK ((kind = ANY (ARRAY['answer'::text, 'error'::text, 'notice'::text, 'binding_prompt'::text]))),
    CONSTRAINT outbound_message_recipient_id_check CHECK ((recipient_id <> ''::text)),
    CONSTRAINT outbound_message_recipient_type_check CHECK ((recipient_type = ANY (ARRAY['chat'::text, 'user'::text]))),
    CONSTRAINT outbound_message_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'sending'::text, 'sent'::text, 'failed'::text, 'unknown'::text]))),
    CONSTRAINT outbound_message_uuid_check CHECK (((length(uuid) >= 1) AND (length(uuid) <= 50)))
);


--
-- Name: outbound_message_seq_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.outbound_message ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.outbound_message_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: project; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.project (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT project_name_check CHECK ((name <> ''::text))
);


--
-- Name: squad; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.squad (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    name text NOT NULL,
    leader_agent_id uuid,
    archived_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT squad_name_check CHECK ((name <> ''::text))
);


--
-- Name: workspace; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.workspace (
    id uuid NOT NULL,
    name text NOT NULL,
    slug text NOT NULL,
    issue_prefix text NOT NULL,
    issue_counter bigint DEFAULT 0 NOT NULL,
    language text DEFAULT 'en'::text NOT NULL,
    settings jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT workspace_issue_prefix_check CHECK ((issue_prefix ~ '^[A-Z][A-Z0-9]{0,9}$'::text)),
    CONSTRAINT workspace_language_check CHECK ((language = ANY (ARRAY['en'::text, 'zh-Hans'::text]))),
    CONSTRAINT workspace_name_check CHECK ((name <> ''::text)),
    CONSTRAINT workspace_slug_check CHECK ((slug ~ '^[a-z0-9][a-z0-9-]*$'::text))
);


--
-- Name: task_line; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.task_line AS
 SELECT task.id,
    task.workspace_id,
    workspace.slug AS workspace,
    task.agent_id,
    agent.name AS agent,
    task.kind,
    task.status,
    task.attempt,
    task.max_attempts,
    task.failure_reason,
    task.chat_session_id,
    task.issue_id,
    ((workspace.issue_prefix || '-'::text) || issue.number) AS issue_key,
    task.autopilot_run_id,
    COALESCE(task.runtime_id, agent.runtime_id) AS runtime_id,
    runtime.name AS runtime,
    runtime.last_heartbeat_at AS runtime_last_heartbeat_at,
    task.created_at,
    task.available_at,
    task.dispatched_at,
    task.started_at,
    task.completed_at
   FROM ((((public.agent_task task
     JOIN public.workspace ON ((workspace.id = task.workspace_id)))
     JOIN public.agent ON ((agent.id = task.agent_id)))
     LEFT JOIN public.issue ON (((issue.id = task.issue_id) AND (issue.workspace_id = task.workspace_id))))
     LEFT JOIN public.agent_runtime runtime ON (((runtime.id = COALESCE(task.runtime_id, agent.runtime_id)) AND (runtime.workspace_id = task.workspace_id))));


--
-- Name: user_session; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.user_session (
    token_hash text NOT NULL,
    user_id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT user_session_token_hash_check CHECK ((token_hash ~ '^[0-9a-f]{64}$'::text))
);


--
-- Name: webhook_delivery; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.webhook_delivery (
    id uuid NOT NULL,
    source text DEFAULT 'autopilot'::text NOT NULL,
    workspace_id uuid,
    autopilot_id uuid,
    trigger_id uuid,
    provider text DEFAULT 'generic'::text NOT NULL,
    event text DEFAULT 'webhook.received'::text NOT NULL,
    dedupe_key text,
    dedupe_source text,
    signature_status text DEFAULT 'not_required'::text NOT NULL,
    signing_secret_id uuid,
    status text DEFAULT 'queued'::text NOT NULL,
    reason_code text,
    attempt_count integer DEFAULT 1 NOT NULL,
    selected_headers jsonb DEFAULT '{}'::jsonb NOT NULL,
    content_type text,
    raw_body bytea,
    response_status integer,
    response_body text,
    autopilot_run_id uuid,
    replayed_from_delivery_id uuid,
    replay_idempotency_key text,
    error text,
    available_at timestamp with time zone DEFAULT (now() + '00:00:10'::interval) NOT NULL,
    dispatch_attempts integer DEFAULT 0 NOT NULL,
    received_at timestamp with time zone DEFAULT now() NOT NULL,
    last_attempt_at timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    search tsvector GENERATED ALWAYS AS (public.webhook_words(raw_body)) STORED,
    turn bigint,
    CONSTRAINT webhook_delivery_owner_check CHECK (
CASE source
    WHEN 'autopilot'::text THEN (num_nulls(workspace_id, autopilot_id, trigger_id) = 0)
    ELSE (num_nonnulls(autopilot_id, trigger_id) = 0)
END),
    CONSTRAINT webhook_delivery_signature_status_check CHECK ((signature_status = ANY (ARRAY['not_required'::text, 'valid'::text, 'invalid'::text, 'missing'::text]))),
    CONSTRAINT webhook_delivery_source_check CHECK ((source = ANY (ARRAY['autopilot'::text, 'github_app'::text]))),
    CONSTRAINT webhook_delivery_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'dispatched'::text, 'rejected'::text, 'ignored'::text, 'failed'::text])))
);


--
-- Name: webhook_delivery_line; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.webhook_delivery_line AS
 SELECT id,
    workspace_id,
    autopilot_id,
    trigger_id,
    source,
    provider,
    event,
    dedupe_key,
    dedupe_source,
    signature_status,
    signing_secret_id,
    status,
    reason_code,
    attempt_count,
    dispatch_attempts,
    available_at,
    replay_idempotency_key,
    content_type,
    response_status,
    autopilot_run_id,
    replayed_from_delivery_id,
    error,
    received_at,
    last_attempt_at,
    created_at
   FROM public.webhook_delivery;


--
-- Name: webhook_delivery_turn; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.webhook_delivery_turn
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: webhook_replay; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.webhook_replay (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    autopilot_id uuid NOT NULL,
    created_by_id uuid,
    filter jsonb NOT NULL,
    budget integer NOT NULL,
    planned integer NOT NULL,
    status text DEFAULT 'running'::text NOT NULL,
    accepted integer DEFAULT 0 NOT NULL,
    skipped integer DEFAULT 0 NOT NULL,
    failed integer DEFAULT 0 NOT NULL,
    until_at timestamp with time zone DEFAULT now() NOT NULL,
    cursor_at timestamp with time zone DEFAULT '1970-01-01 00:00:00+00'::timestamp with time zone NOT NULL,
    cursor_id uuid DEFAULT '00000000-0000-0000-0000-000000000000'::uuid NOT NULL,
    leased_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    lease_token uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT webhook_replay_budget_check CHECK ((budget > 0)),
    CONSTRAINT webhook_replay_status_check CHECK ((status = ANY (ARRAY['running'::text, 'completed'::text, 'cancelled'::text])))
);


--
-- Name: webhook_signing_secret; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.webhook_signing_secret (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    trigger_id uuid NOT NULL,
    secret_encrypted text NOT NULL,
    last_four text NOT NULL,
    expires_at timestamp with time zone,
    created_by_id uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: webhook_tally; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.webhook_tally (
    workspace_id uuid,
    autopilot_id uuid,
    status text NOT NULL,
    rows bigint NOT NULL
);


--
-- Name: agent agent_name_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent
    ADD CONSTRAINT agent_name_key UNIQUE (workspace_id, name);


--
-- Name: agent agent_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent
    ADD CONSTRAINT agent_pkey PRIMARY KEY (id);


--
-- Name: agent_runtime agent_runtime_name_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent_runtime
    ADD CONSTRAINT agent_runtime_name_key UNIQUE (workspace_id, name);


--
-- Name: agent_runtime agent_runtime_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent_runtime
    ADD CONSTRAINT agent_runtime_pkey PRIMARY KEY (id);


--
-- Name: agent_task agent_task_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent_task
    ADD CONSTRAINT agent_task_pkey PRIMARY KEY (id);


--
-- Name: api_token api_token_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_token
    ADD CONSTRAINT api_token_pkey PRIMARY KEY (id);


--
-- Name: api_token api_token_token_hash_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_token
    ADD CONSTRAINT api_token_token_hash_key UNIQUE (token_hash);


--
-- Name: app_user app_user_email_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.app_user
    ADD CONSTRAINT app_user_email_key UNIQUE (email);


--
-- Name: app_user app_user_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.app_user
    ADD CONSTRAINT app_user_pkey PRIMARY KEY (id);


--
-- Name: autopilot autopilot_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.autopilot
    ADD CONSTRAINT autopilot_pkey PRIMARY KEY (id);


--
-- Name: autopilot_run autopilot_run_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.autopilot_run
    ADD CONSTRAINT autopilot_run_pkey PRIMARY KEY (id);


--
-- Name: autopilot_trigger autopilot_trigger_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.autopilot_trigger
    ADD CONSTRAINT autopilot_trigger_pkey PRIMARY KEY (id);


--
-- Name: channel_binding_prompt channel_binding_prompt_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_binding_prompt
    ADD CONSTRAINT channel_binding_prompt_pkey PRIMARY KEY (installation_id, channel_user_id);


--
-- Name: channel_binding_token channel_binding_token_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_binding_token
    ADD CONSTRAINT channel_binding_token_pkey PRIMARY KEY (token_hash);


--
-- Name: channel_chat_session_binding channel_chat_session_binding_chat_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_chat_session_binding
    ADD CONSTRAINT channel_chat_session_binding_chat_key UNIQUE (installation_id, channel_chat_id);


--
-- Name: channel_chat_session_binding channel_chat_session_binding_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_chat_session_binding
    ADD CONSTRAINT channel_chat_session_binding_pkey PRIMARY KEY (id);


--
-- Name: channel_chat_session_binding channel_chat_session_binding_session_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_chat_session_binding
    ADD CONSTRAINT channel_chat_session_binding_session_key UNIQUE (chat_session_id);


--
-- Name: channel_connection channel_connection_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_connection
    ADD CONSTRAINT channel_connection_pkey PRIMARY KEY (installation_id);


--
-- Name: channel_inbound_audit channel_inbound_audit_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_inbound_audit
    ADD CONSTRAINT channel_inbound_audit_pkey PRIMARY KEY (id);


--
-- Name: channel_inbound_message_dedup channel_inbound_message_dedup_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_inbound_message_dedup
    ADD CONSTRAINT channel_inbound_message_dedup_pkey PRIMARY KEY (installation_id, message_id);


--
-- Name: channel_installation channel_installation_agent_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_installation
    ADD CONSTRAINT channel_installation_agent_key UNIQUE (workspace_id, agent_id, channel_type);


--
-- Name: channel_installation channel_installation_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_installation
    ADD CONSTRAINT channel_installation_pkey PRIMARY KEY (id);


--
-- Name: channel_outbound_card_message channel_outbound_card_message_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_outbound_card_message
    ADD CONSTRAINT channel_outbound_card_message_pkey PRIMARY KEY (id);


--
-- Name: channel_pending_command channel_pending_command_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_pending_command
    ADD CONSTRAINT channel_pending_command_pkey PRIMARY KEY (chat_session_id, user_id);


--
-- Name: channel_typing channel_typing_message_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_typing
    ADD CONSTRAINT channel_typing_message_key UNIQUE (task_id, channel_message_id);


--
-- Name: channel_typing channel_typing_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_typing
    ADD CONSTRAINT channel_typing_pkey PRIMARY KEY (id);


--
-- Name: channel_user_binding channel_user_binding_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_user_binding
    ADD CONSTRAINT channel_user_binding_key UNIQUE (installation_id, channel_user_id);


--
-- Name: channel_user_binding channel_user_binding_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.channel_user_binding
    ADD CONSTRAINT channel_user_binding_pkey PRIMARY KEY (id);


--
-- Name: chat_attachment chat_attachment_message_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_attachment
    ADD CONSTRAINT chat_attachment_message_key UNIQUE (chat_message_id, n);


--
-- Name: chat_attachment chat_attachment_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_attachment
    ADD CONSTRAINT chat_attachment_pkey PRIMARY KEY (id);


--
-- Name: chat_message chat_message_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_message
    ADD CONSTRAINT chat_message_pkey PRIMARY KEY (id);


--
-- Name: chat_session chat_session_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_session
    ADD CONSTRAINT chat_session_pkey PRIMARY KEY (id);


--
-- Name: issue_comment issue_comment_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.issue_comment
    ADD CONSTRAINT issue_comment_pkey PRIMARY KEY (id);


--
-- Name: issue issue_number_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.issue
    ADD CONSTRAINT issue_number_key UNIQUE (workspace_id, number);


--
-- Name: issue issue_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.issue
    ADD CONSTRAINT issue_pkey PRIMARY KEY (id);


--
-- Name: lark_install_session lark_install_session_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.lark_install_session
    ADD CONSTRAINT lark_install_session_pkey PRIMARY KEY (id);


--
-- Name: member member_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.member
    ADD CONSTRAINT member_pkey PRIMARY KEY (workspace_id, user_id);


--
-- Name: outbound_message outbound_message_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.outbound_message
    ADD CONSTRAINT outbound_message_pkey PRIMARY KEY (id);


--
-- Name: outbound_message outbound_message_uuid_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.outbound_message
    ADD CONSTRAINT outbound_message_uuid_key UNIQUE (uuid);


--
-- Name: project project_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.project
    ADD CONSTRAINT project_pkey PRIMARY KEY (id);


--
-- Name: squad squad_name_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.squad
    ADD CONSTRAINT squad_name_key UNIQUE (workspace_id, name);


--
-- Name: squad squad_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.squad
    ADD CONSTRAINT squad_pkey PRIMARY KEY (id);


--
-- Name: user_session user_session_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.user_session
    ADD CONSTRAINT user_session_pkey PRIMARY KEY (token_hash);


--
-- Name: webhook_delivery webhook_delivery_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_delivery
    ADD CONSTRAINT webhook_delivery_pkey PRIMARY KEY (id);


--
-- Name: webhook_replay webhook_replay_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_replay
    ADD CONSTRAINT webhook_replay_pkey PRIMARY KEY (id);


--
-- Name: webhook_signing_secret webhook_signing_secret_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_signing_secret
    ADD CONSTRAINT webhook_signing_secret_pkey PRIMARY KEY (id);


--
-- Name: workspace workspace_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.workspace
    ADD CONSTRAINT workspace_pkey PRIMARY KEY (id);


--
-- Name: workspace workspace_slug_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.workspace
    ADD CONSTRAINT workspace_slug_key UNIQUE (slug);


--
-- Name: agent_runtime_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX agent_runtime_idx ON public.agent USING btree (runtime_id) WHERE (runtime_id IS NOT NULL);


--
-- Name: agent_task_active_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX agent_task_active_idx ON public.agent_task USING btree (agent_id) WHERE (status = ANY (ARRAY['dispatched'::text, 'running'::text]));


--
-- Name: agent_task_autopilot_run_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX agent_task_autopilot_run_idx ON public.agent_task USING btree (autopilot_run_id) WHERE (autopilot_run_id IS NOT NULL);


--
-- Name: agent_task_chat_session_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX agent_task_chat_session_idx ON public.agent_task USING btree (chat_session_id) WHERE (chat_session_id IS NOT NULL);


--
-- Name: agent_task_due_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX agent_task_due_idx ON public.agent_task USING btree (agent_id, priority DESC, created_at) WHERE (status = 'queued'::text);


--
-- Name: agent_task_issue_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX agent_task_issue_idx ON public.agent_task USING btree (issue_id) WHERE (issue_id IS NOT NULL);


--
-- Name: agent_task_pending_issue_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX agent_task_pending_issue_key ON public.agent_task USING btree (issue_id, agent_id) WHERE ((status = ANY (ARRAY['queued'::text, 'dispatched'::text])) AND (kind = 'issue'::text));


--
-- Name: agent_task_queued_chat_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX agent_task_queued_chat_key ON public.agent_task USING btree (chat_session_id) WHERE ((status = 'queued'::text) AND (kind = 'chat'::text));


--
-- Name: autopilot_run_autopilot_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX autopilot_run_autopilot_idx ON public.autopilot_run USING btree (autopilot_id, triggered_at DESC);


--
-- Name: autopilot_run_delivery_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX autopilot_run_delivery_key ON public.autopilot_run USING btree (webhook_delivery_id) WHERE (webhook_delivery_id IS NOT NULL);


--
-- Name: autopilot_run_idempotency_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX autopilot_run_idempotency_key ON public.autopilot_run USING btree (autopilot_id, idempotency_key) WHERE (idempotency_key IS NOT NULL);


--
-- Name: autopilot_run_issue_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX autopilot_run_issue_idx ON public.autopilot_run USING btree (issue_id) WHERE (issue_id IS NOT NULL);


--
-- Name: autopilot_run_task_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX autopilot_run_task_idx ON public.autopilot_run USING btree (task_id) WHERE (task_id IS NOT NULL);


--
-- Name: autopilot_run_trigger_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX autopilot_run_trigger_idx ON public.autopilot_run USING btree (trigger_id) WHERE (trigger_id IS NOT NULL);


--
-- Name: autopilot_run_uncounted_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX autopilot_run_uncounted_idx ON public.autopilot_run USING btree (completed_at) WHERE ((counted_at IS NULL) AND (status = ANY (ARRAY['completed'::text, 'failed'::text])));


--
-- Name: autopilot_run_workspace_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX autopilot_run_workspace_idx ON public.autopilot_run USING btree (workspace_id, triggered_at DESC);


--
-- Name: autopilot_trigger_autopilot_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX autopilot_trigger_autopilot_idx ON public.autopilot_trigger USING btree (autopilot_id);


--
-- Name: autopilot_trigger_token_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX autopilot_trigger_token_key ON public.autopilot_trigger USING btree (webhook_token) WHERE ((kind = 'webhook'::text) AND (webhook_token IS NOT NULL));


--
-- Name: autopilot_workspace_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX autopilot_workspace_idx ON public.autopilot USING btree (workspace_id, created_at DESC);


--
-- Name: channel_binding_prompt_age_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_binding_prompt_age_idx ON public.channel_binding_prompt USING btree (prompted_at);


--
-- Name: channel_binding_token_expiry_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_binding_token_expiry_idx ON public.channel_binding_token USING btree (expires_at);


--
-- Name: channel_inbound_audit_age_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_inbound_audit_age_idx ON public.channel_inbound_audit USING btree (received_at);


--
-- Name: channel_inbound_audit_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_inbound_audit_idx ON public.channel_inbound_audit USING btree (installation_id, received_at DESC, id DESC);


--
-- Name: channel_inbound_audit_reason_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_inbound_audit_reason_idx ON public.channel_inbound_audit USING btree (drop_reason, received_at DESC);


--
-- Name: channel_inbound_message_dedup_age_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_inbound_message_dedup_age_idx ON public.channel_inbound_message_dedup USING btree (received_at);


--
-- Name: channel_installation_agent_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_installation_agent_idx ON public.channel_installation USING btree (agent_id);


--
-- Name: channel_installation_app_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX channel_installation_app_key ON public.channel_installation USING btree (channel_type, ((config ->> 'app_id'::text)));


--
-- Name: channel_outbound_card_message_message_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_outbound_card_message_message_idx ON public.channel_outbound_card_message USING btree (channel_card_message_id);


--
-- Name: channel_outbound_card_message_session_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_outbound_card_message_session_idx ON public.channel_outbound_card_message USING btree (chat_session_id, created_at DESC);


--
-- Name: channel_outbound_card_message_task_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX channel_outbound_card_message_task_key ON public.channel_outbound_card_message USING btree (task_id) WHERE (task_id IS NOT NULL);


--
-- Name: channel_pending_command_age_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_pending_command_age_idx ON public.channel_pending_command USING btree (created_at);


--
-- Name: channel_typing_age_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_typing_age_idx ON public.channel_typing USING btree (created_at);


--
-- Name: channel_typing_open_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_typing_open_idx ON public.channel_typing USING btree (installation_id) WHERE (status = ANY (ARRAY['wanted'::text, 'shown'::text, 'unwanted'::text]));


--
-- Name: channel_user_binding_account_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_user_binding_account_idx ON public.channel_user_binding USING btree (workspace_id, channel_user_id);


--
-- Name: channel_user_binding_member_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX channel_user_binding_member_idx ON public.channel_user_binding USING btree (workspace_id, user_id);


--
-- Name: chat_attachment_awaited_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX chat_attachment_awaited_idx ON public.chat_attachment USING btree (deadline_at) WHERE ((status = 'pending'::text) AND (deadline_at IS NOT NULL));


--
-- Name: chat_attachment_issue_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX chat_attachment_issue_idx ON public.chat_attachment USING btree (issue_id) WHERE (issue_id IS NOT NULL);


--
-- Name: chat_attachment_pending_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX chat_attachment_pending_idx ON public.chat_attachment USING btree (chat_session_id, deadline_at) WHERE (status = 'pending'::text);


--
-- Name: chat_message_session_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX chat_message_session_idx ON public.chat_message USING btree (chat_session_id, seq);


--
-- Name: chat_message_task_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX chat_message_task_idx ON public.chat_message USING btree (task_id) WHERE (task_id IS NOT NULL);


--
-- Name: chat_message_waiting_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX chat_message_waiting_idx ON public.chat_message USING btree (chat_session_id) WHERE ((task_id IS NULL) AND (role = 'user'::text));


--
-- Name: chat_session_agent_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX chat_session_agent_idx ON public.chat_session USING btree (agent_id);


--
-- Name: chat_session_workspace_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX chat_session_workspace_idx ON public.chat_session USING btree (workspace_id, updated_at DESC);


--
-- Name: issue_comment_issue_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX issue_comment_issue_idx ON public.issue_comment USING btree (issue_id, created_at);


--
-- Name: issue_open_title_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX issue_open_title_idx ON public.issue USING btree (workspace_id, public.issue_title_key(title)) WHERE (status <> ALL (ARRAY['done'::text, 'cancelled'::text]));


--
-- Name: issue_parent_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX issue_parent_idx ON public.issue USING btree (parent_issue_id) WHERE (parent_issue_id IS NOT NULL);


--
-- Name: issue_position_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX issue_position_idx ON public.issue USING btree (workspace_id, status, "position");


--
-- Name: lark_install_session_age_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX lark_install_session_age_idx ON public.lark_install_session USING btree (COALESCE(ended_at, deadline));


--
-- Name: lark_install_session_pending_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX lark_install_session_pending_idx ON public.lark_install_session USING btree (next_poll_at) WHERE (status = 'pending'::text);


--
-- Name: member_user_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX member_user_idx ON public.member USING btree (user_id);


--
-- Name: outbound_message_channel_message_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX outbound_message_channel_message_idx ON public.outbound_message USING btree (installation_id, channel_message_id) WHERE (channel_message_id IS NOT NULL);


--
-- Name: outbound_message_open_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX outbound_message_open_idx ON public.outbound_message USING btree (installation_id, seq) WHERE (status = ANY (ARRAY['queued'::text, 'sending'::text]));


--
-- Name: outbound_message_settled_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX outbound_message_settled_idx ON public.outbound_message USING btree (created_at) WHERE (status = ANY (ARRAY['sent'::text, 'failed'::text, 'unknown'::text]));


--
-- Name: outbound_message_task_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX outbound_message_task_key ON public.outbound_message USING btree (task_id, kind, part) WHERE (task_id IS NOT NULL);


--
-- Name: outbound_message_workspace_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX outbound_message_workspace_idx ON public.outbound_message USING btree (workspace_id, seq DESC);


--
-- Name: project_workspace_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX project_workspace_idx ON public.project USING btree (workspace_id);


--
-- Name: user_session_expiry_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX user_session_expiry_idx ON public.user_session USING btree (expires_at);


--
-- Name: webhook_delivery_age_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_delivery_age_idx ON public.webhook_delivery USING btree (created_at);


--
-- Name: webhook_delivery_autopilot_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_delivery_autopilot_idx ON public.webhook_delivery USING btree (autopilot_id, created_at DESC, id DESC);


--
-- Name: webhook_delivery_dedupe_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX webhook_delivery_dedupe_key ON public.webhook_delivery USING btree (trigger_id, dedupe_key) WHERE ((dedupe_key IS NOT NULL) AND (status <> ALL (ARRAY['rejected'::text, 'failed'::text])));


--
-- Name: webhook_delivery_github_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX webhook_delivery_github_key ON public.webhook_delivery USING btree (dedupe_key) WHERE ((source = 'github_app'::text) AND (dedupe_key IS NOT NULL) AND (status <> ALL (ARRAY['rejected'::text, 'failed'::text])));


--
-- Name: webhook_delivery_queued_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_delivery_queued_idx ON public.webhook_delivery USING btree (available_at) WHERE (status = 'queued'::text);


--
-- Name: webhook_delivery_replay_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX webhook_delivery_replay_key ON public.webhook_delivery USING btree (replayed_from_delivery_id, replay_idempotency_key) WHERE (replay_idempotency_key IS NOT NULL);


--
-- Name: webhook_delivery_search_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_delivery_search_idx ON public.webhook_delivery USING gin (search);


--
-- Name: webhook_delivery_status_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_delivery_status_idx ON public.webhook_delivery USING btree (autopilot_id, status, created_at DESC, id DESC);


--
-- Name: webhook_delivery_turn_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_delivery_turn_idx ON public.webhook_delivery USING btree (trigger_id, turn) WHERE ((status = 'queued'::text) AND (turn IS NOT NULL));


--
-- Name: webhook_delivery_workspace_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_delivery_workspace_idx ON public.webhook_delivery USING btree (workspace_id, created_at DESC, id DESC);


--
-- Name: webhook_replay_autopilot_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_replay_autopilot_idx ON public.webhook_replay USING btree (autopilot_id, created_at DESC);


--
-- Name: webhook_replay_running_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_replay_running_idx ON public.webhook_replay USING btree (leased_until) WHERE (status = 'running'::text);


--
-- Name: webhook_signing_secret_trigger_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_signing_secret_trigger_idx ON public.webhook_signing_secret USING btree (trigger_id, created_at);


--
-- Name: webhook_tally_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_tally_idx ON public.webhook_tally USING btree (workspace_id, autopilot_id);


--
-- Name: agent agent_note_runtime_set; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER agent_note_runtime_set BEFORE UPDATE OF runtime_id ON public.agent FOR EACH ROW WHEN ((old.runtime_id IS DISTINCT FROM new.runtime_id)) EXECUTE FUNCTION public.note_runtime_set();


--
-- Name: agent_task agent_task_delete_autopilot_run; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER agent_task_delete_autopilot_run BEFORE DELETE ON public.agent_task FOR EACH ROW WHEN ((old.autopilot_run_id IS NOT NULL)) EXECUTE FUNCTION public.end_autopilot_run_of_task();


--
-- Name: agent_task agent_task_delete_typing; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER agent_task_delete_typing AFTER DELETE ON public.agent_task FOR EACH ROW WHEN ((old.status = ANY (ARRAY['dispatched'::text, 'running'::text]))) EXECUTE FUNCTION public.end_typing();


--
-- Name: agent_task agent_task_end_autopilot_run; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER agent_task_end_autopilot_run AFTER UPDATE OF status ON public.agent_task FOR EACH ROW WHEN (((new.autopilot_run_id IS NOT NULL) AND (old.status <> new.status) AND (new.status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text])))) EXECUTE FUNCTION public.end_autopilot_run_of_task();


--
-- Name: agent_task agent_task_end_typing; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER agent_task_end_typing AFTER UPDATE OF status ON public.agent_task FOR EACH ROW WHEN (((old.status = ANY (ARRAY['dispatched'::text, 'running'::text])) AND (new.status <> ALL (ARRAY['dispatched'::text, 'running'::text])))) EXECUTE FUNCTION public.end_typing();


--
-- Name: autopilot_run autopilot_run_announce_end; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER autopilot_run_announce_end AFTER UPDATE OF status ON public.autopilot_run FOR EACH ROW WHEN ((old.status <> new.status)) EXECUTE FUNCTION public.announce_autopilot_run();


--
-- Name: autopilot_run autopilot_run_announce_start; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER autopilot_run_announce_start AFTER INSERT ON public.autopilot_run FOR EACH ROW EXECUTE FUNCTION public.announce_autopilot_run();


--
-- Name: autopilot_run autopilot_run_settle_delivery; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER autopilot_run_settle_delivery AFTER INSERT ON public.autopilot_run FOR EACH ROW WHEN ((new.webhook_delivery_id IS NOT NULL)) EXECUTE FUNCTION public.settle_webhook_delivery();


--
-- Name: autopilot_trigger autopilot_trigger_announce_token; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER autopilot_trigger_announce_token AFTER INSERT OR UPDATE OF webhook_token ON public.autopilot_trigger FOR EACH ROW WHEN (((new.kind = 'webhook'::text) AND (new.webhook_token IS NOT NULL))) EXECUTE FUNCTION public.announce_webhook_token();


--
-- Name: autopilot_trigger autopilot_trigger_revision; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER autopilot_trigger_revision BEFORE UPDATE OF webhook_token, provider, event_filters ON public.autopilot_trigger FOR EACH ROW WHEN (((old.webhook_token IS DISTINCT FROM new.webhook_token) OR (old.provider <> new.provider) OR (old.event_filters IS DISTINCT FROM new.event_filters))) EXECUTE FUNCTION public.raise_trigger_revision();


--
-- Name: channel_installation channel_installation_announce; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER channel_installation_announce AFTER INSERT OR DELETE OR UPDATE OF config, status, agent_id, workspace_id ON public.channel_installation FOR EACH ROW EXECUTE FUNCTION public.announce_installation();


--
-- Name: channel_typing channel_typing_announce; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER channel_typing_announce AFTER INSERT OR UPDATE OF status ON public.channel_typing FOR EACH ROW WHEN ((new.status = ANY (ARRAY['wanted'::text, 'unwanted'::text]))) EXECUTE FUNCTION public.announce_outbound();


--
-- Name: issue issue_delete_autopilot_run; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER issue_delete_autopilot_run BEFORE DELETE ON public.issue FOR EACH ROW EXECUTE FUNCTION public.end_autopilot_run_of_issue();


--
-- Name: issue issue_end_autopilot_run; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER issue_end_autopilot_run AFTER UPDATE OF status ON public.issue FOR EACH ROW WHEN (((old.status <> new.status) AND (new.status = ANY (ARRAY['done'::text, 'in_review'::text, 'cancelled'::text, 'blocked'::text])))) EXECUTE FUNCTION public.end_autopilot_run_of_issue();


--
-- Name: outbound_message outbound_message_announce; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER outbound_message_announce AFTER INSERT OR UPDATE OF status ON public.outbound_message FOR EACH ROW WHEN ((new.status = 'queued'::text)) EXECUTE FUNCTION public.announce_outbound();


--
-- Name: webhook_delivery webhook_delivery_tally_added; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER webhook_delivery_tally_added AFTER INSERT ON public.webhook_delivery REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION public.tally_added_deliveries();


--
-- Name: webhook_delivery webhook_delivery_tally_gone; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER webhook_delivery_tally_gone AFTER DELETE ON public.webhook_delivery REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION public.tally_gone_deliveries();


--
-- Name: webhook_delivery webhook_delivery_tally_moved; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER webhook_delivery_tally_moved AFTER UPDATE OF status, workspace_id ON public.webhook_delivery FOR EACH ROW WHEN (((old.status <> new.status) OR (old.workspace_id IS DISTINCT FROM new.workspace_id))) EXECUTE FUNCTION public.tally_moved_delivery();


--
-- Name: webhook_signing_secret webhook_signing_secret_revision; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER webhook_signing_secret_revision AFTER INSERT OR DELETE OR UPDATE ON public.webhook_signing_secret FOR EACH ROW EXECUTE FUNCTION public.announce_signing_secret();


--
-- Name: agent agent_owner_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent
    ADD CONSTRAINT agent_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES public.app_user(id) ON DELETE SET NULL;


--
-- Name: agent_runtime agent_runtime_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent_runtime
    ADD CONSTRAINT agent_runtime_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: agent_task agent_task_agent_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent_task
    ADD CONSTRAINT agent_task_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agent(id) ON DELETE CASCADE;


--
-- Name: agent_task agent_task_autopilot_run_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent_task
    ADD CONSTRAINT agent_task_autopilot_run_fkey FOREIGN KEY (autopilot_run_id) REFERENCES public.autopilot_run(id) ON DELETE CASCADE;


--
-- Name: agent_task agent_task_chat_session_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent_task
    ADD CONSTRAINT agent_task_chat_session_id_fkey FOREIGN KEY (chat_session_id) REFERENCES public.chat_session(id) ON DELETE CASCADE;


--
-- Name: agent_task agent_task_initiator_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent_task
    ADD CONSTRAINT agent_task_initiator_user_id_fkey FOREIGN KEY (initiator_user_id) REFERENCES public.app_user(id) ON DELETE SET NULL;


--
-- Name: agent_task agent_task_issue_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent_task
    ADD CONSTRAINT agent_task_issue_id_fkey FOREIGN KEY (issue_id) REFERENCES public.issue(id) ON DELETE CASCADE;


--
-- Name: agent_task agent_task_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent_task
    ADD CONSTRAINT agent_task_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: agent agent_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.agent
    ADD CONSTRAINT agent_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: api_token api_token_runtime_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_token
    ADD CONSTRAINT api_token_runtime_id_fkey FOREIGN KEY (runtime_id) REFERENCES public.agent_runtime(id) ON DELETE CASCADE;


--
-- Name: api_token api_token_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_token
    ADD CONSTRAINT api_token_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.app_user(id) ON DELETE CASCADE;


--
-- Name: autopilot autopilot_project_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.autopilot
    ADD CONSTRAINT autopilot_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.project(id) ON DELETE SET NULL;


--
-- Name: autopilot_run autopilot_run_autopilot_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.autopilot_run
    ADD CONSTRAINT autopilot_run_autopilot_id_fkey FOREIGN KEY (autopilot_id) REFERENCES public.autopilot(id) ON DELETE CASCADE;


--
-- Name: autopilot_run autopilot_run_issue_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.autopilot_run
    ADD CONSTRAINT autopilot_run_issue_id_fkey FOREIGN KEY (issue_id) REFERENCES public.issue(id) ON DELETE SET NULL;


--
-- Name: autopilot_run autopilot_run_task_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.autopilot_run
    ADD CONSTRAINT autopilot_run_task_id_fkey FOREIGN KEY (task_id) REFERENCES public.agent_task(id) ON DELETE SET NULL;


--
-- Name: autopilot_run autopilot_run_trigger_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.autopilot_run
    ADD CONSTRAINT autopilot_run_trigger_id_fkey FOREIGN KEY (trigger_id) REFERENCES public.autopilot_trigger(id) ON DELETE SET NULL;


--
-- Name: autopilot_run autopilot_run_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.autopilot_run
    ADD CONSTRAINT autopilot_run_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: autopilot_trigger autopilot_trigger_autopilot_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.autopilot_trigger
    ADD CONSTRAINT autopilot_trigger_autopilot_id_fkey FOREIGN KEY (autopilot_id) REFERENCES public.autopilot(id) ON DELETE CASCADE;


--
-- Name: autopilot_trigger autopilot_trigger_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.autopilot_trigger
    ADD CONSTRAINT autopilot_trigger_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: autopilot autopilot_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.autopilot
    ADD CONSTRAINT autopilot_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: chat_attachment chat_attachment_chat_message_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_attachment
    ADD CONSTRAINT chat_attachment_chat_message_id_fkey FOREIGN KEY (chat_message_id) REFERENCES public.chat_message(id) ON DELETE CASCADE;


--
-- Name: chat_attachment chat_attachment_issue_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_attachment
    ADD CONSTRAINT chat_attachment_issue_id_fkey FOREIGN KEY (issue_id) REFERENCES public.issue(id) ON DELETE SET NULL;


--
-- Name: chat_attachment chat_attachment_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_attachment
    ADD CONSTRAINT chat_attachment_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: chat_message chat_message_author_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_message
    ADD CONSTRAINT chat_message_author_user_id_fkey FOREIGN KEY (author_user_id) REFERENCES public.app_user(id) ON DELETE SET NULL;


--
-- Name: chat_message chat_message_chat_session_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_message
    ADD CONSTRAINT chat_message_chat_session_id_fkey FOREIGN KEY (chat_session_id) REFERENCES public.chat_session(id) ON DELETE CASCADE;


--
-- Name: chat_message chat_message_task_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_message
    ADD CONSTRAINT chat_message_task_id_fkey FOREIGN KEY (task_id) REFERENCES public.agent_task(id) ON DELETE SET NULL;


--
-- Name: chat_session chat_session_agent_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_session
    ADD CONSTRAINT chat_session_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agent(id) ON DELETE CASCADE;


--
-- Name: chat_session chat_session_creator_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_session
    ADD CONSTRAINT chat_session_creator_id_fkey FOREIGN KEY (creator_id) REFERENCES public.app_user(id) ON DELETE SET NULL;


--
-- Name: chat_session chat_session_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.chat_session
    ADD CONSTRAINT chat_session_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: issue_comment issue_comment_issue_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.issue_comment
    ADD CONSTRAINT issue_comment_issue_id_fkey FOREIGN KEY (issue_id) REFERENCES public.issue(id) ON DELETE CASCADE;


--
-- Name: issue_comment issue_comment_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.issue_comment
    ADD CONSTRAINT issue_comment_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: issue issue_parent_issue_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.issue
    ADD CONSTRAINT issue_parent_issue_id_fkey FOREIGN KEY (parent_issue_id) REFERENCES public.issue(id) ON DELETE SET NULL;


--
-- Name: issue issue_project_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.issue
    ADD CONSTRAINT issue_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.project(id) ON DELETE SET NULL;


--
-- Name: issue issue_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.issue
    ADD CONSTRAINT issue_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: lark_install_session lark_install_session_agent_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.lark_install_session
    ADD CONSTRAINT lark_install_session_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agent(id) ON DELETE CASCADE;


--
-- Name: lark_install_session lark_install_session_initiator_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.lark_install_session
    ADD CONSTRAINT lark_install_session_initiator_user_id_fkey FOREIGN KEY (initiator_user_id) REFERENCES public.app_user(id) ON DELETE CASCADE;


--
-- Name: lark_install_session lark_install_session_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.lark_install_session
    ADD CONSTRAINT lark_install_session_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: member member_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.member
    ADD CONSTRAINT member_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.app_user(id) ON DELETE CASCADE;


--
-- Name: member member_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.member
    ADD CONSTRAINT member_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: project project_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.project
    ADD CONSTRAINT project_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: squad squad_leader_agent_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.squad
    ADD CONSTRAINT squad_leader_agent_id_fkey FOREIGN KEY (leader_agent_id) REFERENCES public.agent(id) ON DELETE SET NULL;


--
-- Name: squad squad_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.squad
    ADD CONSTRAINT squad_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: user_session user_session_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.user_session
    ADD CONSTRAINT user_session_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.app_user(id) ON DELETE CASCADE;


--
-- Name: webhook_delivery webhook_delivery_autopilot_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_delivery
    ADD CONSTRAINT webhook_delivery_autopilot_id_fkey FOREIGN KEY (autopilot_id) REFERENCES public.autopilot(id) ON DELETE CASCADE;


--
-- Name: webhook_delivery webhook_delivery_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_delivery
    ADD CONSTRAINT webhook_delivery_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: webhook_replay webhook_replay_autopilot_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_replay
    ADD CONSTRAINT webhook_replay_autopilot_id_fkey FOREIGN KEY (autopilot_id) REFERENCES public.autopilot(id) ON DELETE CASCADE;


--
-- Name: webhook_replay webhook_replay_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_replay
    ADD CONSTRAINT webhook_replay_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- Name: webhook_signing_secret webhook_signing_secret_trigger_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_signing_secret
    ADD CONSTRAINT webhook_signing_secret_trigger_id_fkey FOREIGN KEY (trigger_id) REFERENCES public.autopilot_trigger(id) ON DELETE CASCADE;


--
-- Name: webhook_signing_secret webhook_signing_secret_workspace_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_signing_secret
    ADD CONSTRAINT webhook_signing_secret_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES public.workspace(id) ON DELETE CASCADE;


--
-- PostgreSQL database dump complete
--

\unrestrict gateway
