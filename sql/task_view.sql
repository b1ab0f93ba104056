-- Tasks as an operator sees them: the outcome of a run and its reason, without the content of conversations.

-- name: find_agents(workspace_id, reference)
-- Finds agents by id, by name, or by WORKSPACE/NAME. Agents of several workspaces may have the same name.
select agent.id, workspace.slug || '/' || agent.name as path
from agent
join workspace on workspace.id = agent.workspace_id
where (:workspace_id::uuid is null or agent.workspace_id = :workspace_id)
  and (agent.id::text = lower(:reference::text) or agent.name = :reference or workspace.slug || '/' || agent.name = :reference)
order by path
limit 20;

-- name: list_tasks(workspace_id, agent_id, status, rows_max)
-- The latest first. The runtime is the one that claimed the task, or else the one that the task waits for.
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
  and runtime.workspace_id = task.workspace_id
where (:workspace_id::uuid is null or task.workspace_id = :workspace_id)
  and (:agent_id::uuid is null or task.agent_id = :agent_id)
  and (:status::text is null or task.status = :status)
order by task.created_at desc, task.id desc
limit :rows_max;

-- name: show_task(task_id)^
-- Includes the end of the program's stderr. The answer is left out, because it is part of a conversation.
select task.id, task.workspace_id, workspace.slug as workspace, task.agent_id, agent.name as agent, task.kind, task.status,
  task.attempt, task.max_attempts, task.failure_reason, task.chat_session_id, task.issue_id,
  workspace.issue_prefix || '-' || issue.number as issue_key, task.autopilot_run_id,
  coalesce(task.runtime_id, agent.runtime_id) as runtime_id, runtime.name as runtime,
  runtime.last_heartbeat_at as runtime_last_heartbeat_at, task.created_at, task.available_at, task.dispatched_at,
  task.started_at, task.completed_at, task.undelivered, task.error, task.stderr_tail
from agent_task task
join workspace on workspace.id = task.workspace_id
join agent on agent.id = task.agent_id
left join issue on issue.id = task.issue_id and issue.workspace_id = task.workspace_id
left join agent_runtime runtime on runtime.id = coalesce(task.runtime_id, agent.runtime_id)
  and runtime.workspace_id = task.workspace_id
where task.id = :task_id;

-- name: list_messages_of_task(task_id)
-- The messages of the run to its chat and their outcome, in the order in which they were written.
select id, kind, part, status, attempts, error_code, error, created_at, sent_at
from outbound_message
where task_id = :task_id
order by seq;
