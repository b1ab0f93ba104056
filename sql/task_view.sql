-- Tasks as an operator sees them: the outcome of a run and its reason, without the content of conversations.

-- name: list_tasks(workspace_id, agent_id, status, rows_max)
-- The latest first.
select line.*
from task_line line
where (:workspace_id::uuid is null or line.workspace_id = :workspace_id)
  and (:agent_id::uuid is null or line.agent_id = :agent_id)
  and (:status::text is null or line.status = :status)
order by line.created_at desc, line.id desc
limit :rows_max;

-- name: show_task(id)^
-- Includes the end of the program's stderr. The answer is left out, because it is part of a conversation. An autopilot's
-- run stands for its latest task: its own, or that of the issue that it made.
select line.*, task.undelivered, task.error, task.stderr_tail
from task_line line
join agent_task task on task.id = line.id
where line.id = :id
  or line.id = (
    select worked.id
    from autopilot_run run
    join agent_task worked on worked.workspace_id = run.workspace_id
      and (worked.id = run.task_id or worked.autopilot_run_id = run.id or worked.issue_id = run.issue_id)
    where run.id = :id
    order by worked.created_at desc, worked.id desc
    limit 1
  );

-- name: list_messages_of_task(task_id)
-- The messages of the run to its chat and their outcome, in the order in which they were written.
select id, kind, part, status, attempts, error_code, error, created_at, sent_at
from outbound_message
where task_id = :task_id
order by seq;
