-- Rules, and lists of columns, that several statements share.
-- depends: 0021_lookups

-- The planner puts all of these into the query that names them, as if they were written there: the views are plain, and
-- each function is one SELECT, which is not strict and not volatile. Prepared statements read all columns of them, and
-- would break if one were added. So a longer list gets a name of its own.

-- A task as decisions read it. A function of the row rather than a view, because a lock on a view locks every table in it.
create function task_detail(task agent_task) returns table (
  id uuid, workspace_id uuid, agent_id uuid, runtime_id uuid, agent_runtime_id uuid, kind text, status text,
  chat_session_id uuid, issue_id uuid, attempt integer, forgiven integer, reported_attempt integer, max_attempts integer,
  progress text, result jsonb, error text, failure_reason text, stderr_tail text, available_at timestamptz,
  dispatched_at timestamptz, started_at timestamptz, completed_at timestamptz, created_at timestamptz,
  undelivered integer, language text, run_seconds double precision
) language sql stable parallel safe as $$
  select task.id, task.workspace_id, task.agent_id, task.runtime_id, agent.runtime_id, task.kind, task.status,
    task.chat_session_id, task.issue_id, task.attempt, task.forgiven, task.reported_attempt, task.max_attempts,
    task.progress, task.result, task.error, task.failure_reason, task.stderr_tail, task.available_at,
    task.dispatched_at, task.started_at, task.completed_at, task.created_at, task.undelivered, workspace.language,
    extract(epoch from now() - task.dispatched_at)::double precision
  from agent
  join workspace on workspace.id = task.workspace_id
  where agent.id = task.agent_id
$$;

-- A row if nothing keeps a waiting task of this agent, conversation and issue from being claimed: no other run of the
-- conversation or issue is active, and no file of its messages is still awaited.
create function unobstructed(of_agent_id uuid, of_session_id uuid, of_issue_id uuid) returns setof boolean
language sql stable parallel safe as $$
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

-- True if the runtime must be told of a queued run: the row is new (no former start), or its former start is about now.
-- In that case the runtime may look while the row is still locked, skip it, and find no reason to look again.
create function must_ring(former_start timestamptz) returns boolean language sql stable parallel safe as $$
  select former_start is null or former_start <= now() + interval '1 second'
$$;

-- The runtimes of the runs that wait for a file of this conversation or issue.
create function runtimes_awaiting_file(session_id uuid, of_issue_id uuid) returns table (runtime_id uuid)
language sql stable parallel safe as $$
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

-- The end of the time for which a message of a run that has ended waits for the removal of its typing sign. No row if it
-- does not wait. A sign whose removal failed holds nothing up.
create function held_for_typing(of_task_id uuid, created_at timestamptz, seconds double precision) returns setof timestamptz
language sql stable parallel safe as $$
  select created_at + make_interval(secs => seconds)
  where of_task_id is not null and created_at > now() - make_interval(secs => seconds) and exists (
    select from channel_typing typing
    where typing.task_id = of_task_id and typing.status = 'unwanted' and typing.available_at <= now()
  )
$$;

-- The conversations that a person sees. A member sees the conversations of the workspace. Those with a private agent are
-- visible only to the owner of the agent, to the person whom the conversation belongs to, and to owners and admins of the
-- workspace. A guest counts as the owner of nothing, and may delete nothing. But a guest sees the conversations that belong
-- to them.
create function visible_chats(to_user_id uuid) returns table (
  id uuid, workspace_id uuid, agent_id uuid, agent_name text, creator_id uuid, title text, context_generation integer,
  channel_type text, chat_type text, installation_id uuid, archived_at timestamptz, created_at timestamptz,
  updated_at timestamptz, deletable boolean
) language sql stable parallel safe as $$
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

-- The autopilots of the workspaces that a person is a member of, with their role there.
create function visible_autopilots(to_user_id uuid) returns table (
  id uuid, workspace_id uuid, project_id uuid, title text, description text, assignee_type text, assignee_id uuid,
  assigned_by_id uuid, priority text, status text, execution_mode text, issue_title_template text,
  concurrency_policy text, created_by_type text, created_by_id uuid, last_run_at timestamptz, created_at timestamptz,
  updated_at timestamptz, role text
) language sql stable parallel safe as $$
  select autopilot.id, autopilot.workspace_id, autopilot.project_id, autopilot.title, autopilot.description,
    autopilot.assignee_type, autopilot.assignee_id, autopilot.assigned_by_id, autopilot.priority, autopilot.status,
    autopilot.execution_mode, autopilot.issue_title_template, autopilot.concurrency_policy, autopilot.created_by_type,
    autopilot.created_by_id, autopilot.last_run_at, autopilot.created_at, autopilot.updated_at, member.role
  from autopilot
  join member on member.workspace_id = autopilot.workspace_id and member.user_id = to_user_id
$$;

-- A task as an operator sees it in a list. The runtime is the one that claimed it, or else the one that it waits for.
create view task_line as
select task.id, task.workspace_id, workspace.slug as workspace, task.agent_id, agent.name as agent, task.kind, task.status,
  task.attempt, task.max_attempts, task.failure_reason, task.chat_session_id, task.issue_id,
  workspace.issue_prefix || '-' || issue.number as issue_key, task.autopilot_run_id,
  coalesce(task.runtime_id, agent.runtime_id) as runtime_id, runtime.name as runtime,
  runtime.last_heartbeat_at as runtime_last_heartbeat_at, task.created_at, task.available_at, task.dispatched_at,
  task.started_at, task.completed_at
from agent_task task
join workspace on workspace.id = task.workspace_id
join agent on agent.id = task.agent_id
left join issue on issue.id = task.issue_id and issue.workspace_id = task.workspace_id
left join agent_runtime runtime on runtime.id = coalesce(task.runtime_id, agent.runtime_id)
  and runtime.workspace_id = task.workspace_id;

-- A delivery without its large columns.
create view webhook_delivery_line as
select id, workspace_id, autopilot_id, trigger_id, source, provider, event, dedupe_key, dedupe_source, signature_status,
  signing_secret_id, status, reason_code, attempt_count, dispatch_attempts, available_at, replay_idempotency_key,
  content_type, response_status, autopilot_run_id, replayed_from_delivery_id, error, received_at, last_attempt_at,
  created_at
from webhook_delivery;

-- The deliveries that a bulk replay goes through. It leaves out those that a single replay refuses: deliveries that were
-- rejected, that have no outcome yet, or that have no body.
create function replayable_deliveries(
  of_autopilot_id uuid, of_status text, of_event text, words text, since timestamptz, until timestamptz
) returns table (id uuid, created_at timestamptz) language sql stable parallel safe as $$
  select delivery.id, delivery.created_at
  from webhook_delivery delivery
  where delivery.autopilot_id = of_autopilot_id and delivery.status not in ('rejected', 'queued')
    and delivery.signature_status <> 'invalid' and delivery.raw_body is not null
    and (of_status is null or delivery.status = of_status) and (of_event is null or delivery.event = of_event)
    and (words is null or delivery.search @@ words::tsquery)
    and (since is null or delivery.received_at >= since) and (until is null or delivery.received_at < until)
$$;
