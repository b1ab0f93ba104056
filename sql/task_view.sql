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
-- The latest first.
select line.*
from task_line line
where (:workspace_id::uuid is null or line.workspace_id = :workspace_id)
  and (:agent_id::uuid is null or line.agent_id = :agent_id)
  and (:status::text is null or line.status = :status)
order by line.created_at desc, line.id desc
limit :rows_max;

-- name: show_task(task_id)^
-- Includes the end of the program's stderr. The answer is left out, because it is part of a conversation.
select line.*, task.undelivered, task.error, task.stderr_tail
from task_line line
join agent_task task on task.id = line.id
where line.id = :task_id;

-- name: list_messages_of_task(task_id)
-- The messages of the run to its chat and their outcome, in the order in which they were written.
select id, kind, part, status, attempts, error_code, error, created_at, sent_at
from outbound_message
where task_id = :task_id
order by seq;
