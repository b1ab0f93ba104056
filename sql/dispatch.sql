-- Firings of autopilots: from a trigger or a person to a run, in one transaction.

-- name: find_run_of_firing(autopilot_id, delivery_id, idempotency_key)^
-- After a crash either the run exists together with everything it began, or nothing does.
select id, status, reason_code, failure_reason
from autopilot_run
where webhook_delivery_id = :delivery_id
  or (autopilot_id = :autopilot_id and idempotency_key = :idempotency_key);

-- name: get_order(autopilot_id, trigger_id, online_seconds)^
-- Reads everything that the decision needs in one query. The next statement locks the row of the agent if it is to run.
-- A runtime of another workspace does not count. An autopilot that an agent created may use the agents that this agent
-- may use.
select autopilot.workspace_id, project.id as project_id, autopilot.title, autopilot.description, autopilot.priority,
  autopilot.status, autopilot.execution_mode, autopilot.issue_title_template, autopilot.assignee_type,
  autopilot.assignee_id, coalesce(autopilot.assigned_by_id, autopilot.created_by_id) as assigned_by_id,
  autopilot.assigned_by_id is null and autopilot.created_by_type = 'agent' as by_agent,
  trigger.id is not null as trigger_found, coalesce(trigger.enabled, false) as trigger_enabled,
  coalesce(trigger.timezone, 'UTC') as timezone, squad.id is not null as squad_found,
  squad.archived_at is not null as squad_archived, agent.id as agent_id, agent.archived_at is not null as agent_archived,
  coalesce(agent.visibility, 'private') as agent_visibility, agent.owner_id as agent_owner_id,
  squad.leader_agent_id is not null as has_leader, runtime.id as runtime_id,
  coalesce(runtime.last_heartbeat_at > now() - make_interval(secs => :online_seconds), false) as runtime_online,
  now() as fired_at
from autopilot
left join autopilot_trigger trigger on trigger.id = :trigger_id and trigger.autopilot_id = autopilot.id
  and trigger.workspace_id = autopilot.workspace_id
left join project on project.id = autopilot.project_id and project.workspace_id = autopilot.workspace_id
left join squad on autopilot.assignee_type = 'squad' and squad.id = autopilot.assignee_id
  and squad.workspace_id = autopilot.workspace_id
left join agent on agent.workspace_id = autopilot.workspace_id
  and agent.id = case autopilot.assignee_type when 'agent' then autopilot.assignee_id else squad.leader_agent_id end
left join agent_runtime runtime on runtime.id = agent.runtime_id and runtime.workspace_id = agent.workspace_id
where autopilot.id = :autopilot_id;

-- name: get_role(workspace_id, user_id)$
-- The role decides if the person may use a private agent.
select role from member where workspace_id = :workspace_id and user_id = :user_id;

-- name: lock_autopilot_title(autopilot_id, project_id, title)!
-- Firings of one autopilot that would file the same issue wait here for each other. The look-up comes after the wait.
-- The key of this lock differs from that of lock_issue_title, which all issues of that title share.
select pg_advisory_xact_lock(
  hashtextextended(concat_ws('|', :autopilot_id::text, :project_id::text, issue_title_key(:title)), 12)
);

-- name: find_recent_run_issue(autopilot_id, project_id, title, payload, guard_seconds)$
-- Finds only an issue that was filed for the same payload: two webhooks within a minute with different contents become
-- two issues. The payload is compared first, because in a storm of webhooks few runs share one, and the issues of all
-- recent runs need not be read for each.
with same as materialized (
  select issue_id, triggered_at
  from autopilot_run
  where autopilot_id = :autopilot_id and status = 'issue_created'
    and triggered_at > now() - make_interval(secs => :guard_seconds)
    and (trigger_payload -> 'eventPayload')::text is not distinct from (:payload::json -> 'eventPayload')::text
)
select same.issue_id
from same
join issue on issue.id = same.issue_id
where issue.project_id is not distinct from :project_id::uuid and issue_title_key(issue.title) = issue_title_key(:title)
order by same.triggered_at
limit 1;

-- name: insert_run(id, workspace_id, autopilot_id, trigger_id, source, status, issue_id, delivery_id, idempotency_key, reason_code, failure_reason, payload, task_id, agent_id, initiator_id)$
-- Inserts the run and its task, and notifies the runtime. Inserts nothing when the same delivery or key has a run
-- already. The unique indexes decide that, and wait for a transaction that is about to commit such a run. The two dates
-- are for display, so a row that is locked is skipped: the transaction that holds it writes the same moment.
with run as (
  insert into autopilot_run (id, workspace_id, autopilot_id, trigger_id, source, status, issue_id, task_id,
    webhook_delivery_id, idempotency_key, reason_code, failure_reason, trigger_payload, completed_at)
  values (:id, :workspace_id, :autopilot_id, :trigger_id, :source, :status, :issue_id, :task_id,
    :delivery_id, :idempotency_key, :reason_code, :failure_reason, :payload::json,
    case when :status = 'skipped' then now() end)
  on conflict do nothing
  returning id, workspace_id, autopilot_id, trigger_id, task_id
), task as (
  insert into agent_task (id, workspace_id, agent_id, kind, autopilot_run_id, initiator_user_id, max_attempts)
  select run.task_id, run.workspace_id, :agent_id, 'autopilot', run.id, :initiator_id, 1
  from run where run.task_id is not null
  returning agent_id
), told as (
  select pg_notify('gateway_task', agent.runtime_id::text)
  from task join agent on agent.id = task.agent_id where agent.runtime_id is not null
), fired as (
  update autopilot set last_run_at = now()
  where id = (select autopilot.id from run join autopilot on autopilot.id = run.autopilot_id
    for no key update of autopilot skip locked)
), pulled as (
  update autopilot_trigger set last_fired_at = now()
  where id = (select trigger.id from run join autopilot_trigger trigger on trigger.id = run.trigger_id
    for no key update of trigger skip locked)
)
select run.id from run where (select count(*) from told) >= 0;

-- name: lock_free_agent(agent_id)$
-- An archived agent gets no work. An archiving at the same moment waits for this commit, or this statement waits for
-- the archiving.
select id from agent where id = :agent_id and archived_at is null for share;

-- name: begin_plain_runs(ids, task_ids, autopilot_ids, trigger_ids, delivery_ids, payloads, online_seconds)
-- Begins the runs of several waiting webhooks in one statement. It covers only the simple case: an agent of the
-- workspace that every member may use, with a runtime that was heard of recently, runs without an issue. All other
-- firings, and all repeats, are left out and dispatched one by one. The lock and the conditions of the agent are the
-- same there.
with firing as (
  select * from unnest(:ids::uuid[], :task_ids::uuid[], :autopilot_ids::uuid[], :trigger_ids::uuid[],
    :delivery_ids::uuid[], :payloads::text[]) as f (id, task_id, autopilot_id, trigger_id, delivery_id, payload)
), plain as (
  select f.*, autopilot.workspace_id, agent.id as agent_id, agent.runtime_id
  from firing f
  join autopilot on autopilot.id = f.autopilot_id and autopilot.status = 'active'
    and autopilot.execution_mode = 'run_only' and autopilot.assignee_type = 'agent'
  join autopilot_trigger trigger on trigger.id = f.trigger_id and trigger.autopilot_id = autopilot.id
    and trigger.workspace_id = autopilot.workspace_id and trigger.enabled
  join agent on agent.id = autopilot.assignee_id and agent.workspace_id = autopilot.workspace_id
    and agent.archived_at is null and agent.visibility = 'workspace'
  join agent_runtime runtime on runtime.id = agent.runtime_id and runtime.workspace_id = agent.workspace_id
    and runtime.last_heartbeat_at > now() - make_interval(secs => :online_seconds)
  for share of agent
), run as (
  insert into autopilot_run (id, workspace_id, autopilot_id, trigger_id, source, status, task_id, webhook_delivery_id,
    trigger_payload)
  select id, workspace_id, autopilot_id, trigger_id, 'webhook', 'running', task_id, delivery_id, payload::json from plain
  on conflict do nothing
  returning id, workspace_id, autopilot_id, trigger_id, task_id, webhook_delivery_id
), task as (
  insert into agent_task (id, workspace_id, agent_id, kind, autopilot_run_id, max_attempts)
  select run.task_id, run.workspace_id, plain.agent_id, 'autopilot', run.id, 1
  from run join plain on plain.id = run.id
  returning agent_id
), told as (
  select pg_notify('gateway_task', runtime_id::text)
  from (select distinct agent.runtime_id from task join agent on agent.id = task.agent_id) as runtimes
), fired as (
  update autopilot set last_run_at = now()
  where id in (select autopilot.id from autopilot where autopilot.id in (select autopilot_id from run)
    for no key update of autopilot skip locked)
), pulled as (
  update autopilot_trigger set last_fired_at = now()
  where id in (select trigger.id from autopilot_trigger trigger where trigger.id in (select trigger_id from run)
    for no key update of trigger skip locked)
)
select run.webhook_delivery_id, run.id from run where (select count(*) from told) >= 0;
