-- Autopilots and their runs, as people see and edit them.

-- name: get_autopilot(autopilot_id, user_id)^
-- No row for a person who is not a member of its workspace.
select autopilot.* from visible_autopilots(:user_id) autopilot where autopilot.id = :autopilot_id;

-- name: lock_autopilot(autopilot_id)$
-- Two people who change different things at the same time both keep their change. NO KEY, because runs reference the
-- key.
select id from autopilot where id = :autopilot_id for no key update;

-- name: list_autopilots(workspace_id, user_id, limit, offset)
-- The newest first. The id settles ties, so that pages neither repeat nor omit a row.
select autopilot.*
from visible_autopilots(:user_id) autopilot
where autopilot.workspace_id = :workspace_id
order by autopilot.created_at desc, autopilot.id
limit :limit offset :offset;

-- name: count_autopilots(workspace_id)$
-- The number of rows on all pages.
select count(*) from autopilot where workspace_id = :workspace_id;

-- name: get_autopilot_agent(workspace_id, assignee_type, assignee_id)^
-- The agent that would work: the assignee itself, or the leader of the squad. A squad without a leader gives a row
-- without an agent, so no private agent has to be protected.
select agent.id as agent_id, coalesce(agent.visibility, 'workspace') as visibility, agent.owner_id
from (
  select id as leader_id from agent
  where :assignee_type = 'agent' and id = :assignee_id and workspace_id = :workspace_id
  union all
  select leader_agent_id from squad
  where :assignee_type = 'squad' and id = :assignee_id and workspace_id = :workspace_id
) assignee
left join agent on agent.id = assignee.leader_id and agent.workspace_id = :workspace_id;

-- name: has_project(workspace_id, project_id)$
-- Locks the project against deletion, so that the autopilot cannot name a project that is being deleted.
select id from project where id = :project_id and workspace_id = :workspace_id for key share;

-- name: insert_autopilot(id, workspace_id, project_id, title, description, assignee_type, assignee_id, priority, status, execution_mode, issue_title_template, concurrency_policy, user_id)!
-- The person who creates the autopilot is recorded as the one who assigned it.
insert into autopilot (id, workspace_id, project_id, title, description, assignee_type, assignee_id, assigned_by_id,
  priority, status, execution_mode, issue_title_template, concurrency_policy, created_by_type, created_by_id)
values (:id, :workspace_id, :project_id, :title, :description, :assignee_type, :assignee_id, :user_id,
  :priority, :status, :execution_mode, :issue_title_template, :concurrency_policy, 'member', :user_id);

-- name: update_autopilot(id, workspace_id, project_id, title, description, assignee_type, assignee_id, assigned_by_id, priority, status, execution_mode, issue_title_template, concurrency_policy)!
-- Runs under the lock of lock_autopilot.
update autopilot set project_id = :project_id, title = :title, description = :description,
  assignee_type = :assignee_type, assignee_id = :assignee_id, assigned_by_id = :assigned_by_id, priority = :priority,
  status = :status, execution_mode = :execution_mode, issue_title_template = :issue_title_template,
  concurrency_policy = :concurrency_policy, updated_at = now()
where id = :id and workspace_id = :workspace_id;

-- name: list_runs(workspace_id, autopilot_id, limit, offset)
-- The newest first. A payload may have megabytes, so a list contains only payloads of up to 4 KiB.
select id, autopilot_id, trigger_id, source, status, issue_id, task_id, triggered_at, completed_at, reason_code,
  failure_reason, case when pg_column_size(trigger_payload) <= 4096 then trigger_payload::text end as trigger_payload, result,
  created_at
from autopilot_run
where autopilot_id = :autopilot_id and workspace_id = :workspace_id
order by triggered_at desc, id
limit :limit offset :offset;

-- name: count_runs(workspace_id, autopilot_id)$
-- The number of rows on all pages.
select count(*) from autopilot_run where autopilot_id = :autopilot_id and workspace_id = :workspace_id;

-- name: get_run(workspace_id, autopilot_id, run_id)^
-- No row for a run of another autopilot. Its delivery holds a payload that is too large for an answer.
select id, autopilot_id, trigger_id, source, status, issue_id, task_id, triggered_at, completed_at, reason_code,
  failure_reason, case when octet_length(trigger_payload::text) <= 1048576 then trigger_payload::text end as trigger_payload,
  result, created_at
from autopilot_run
where id = :run_id and autopilot_id = :autopilot_id and workspace_id = :workspace_id;

-- name: take_ended_runs(runs_max)
-- A run ends with its issue or task, which people and other programs may end too. Each end is counted by the one
-- process that takes it here.
update autopilot_run set counted_at = now()
where id in (
  select id from autopilot_run
  where counted_at is null and status in ('completed', 'failed')
  order by completed_at
  limit :runs_max
  for no key update skip locked
)
returning id, source, status, reason_code, failure_reason;
