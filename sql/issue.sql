-- Issues: every way of filing an issue uses these statements.

-- name: get_issue_prefix(workspace_id)$
-- The prefix of the identifier by which people call an issue.
select issue_prefix from workspace where id = :workspace_id;

-- name: get_parent_issue(workspace_id, parent_id)^
-- Locks the parent against deletion, so that the child cannot be left without it. No row for an issue of another
-- workspace.
select id, project_id from issue where id = :parent_id and workspace_id = :workspace_id for key share;

-- name: lock_project(workspace_id, project_id)$
-- Locks the project against deletion for the same reason.
select id from project where id = :project_id and workspace_id = :workspace_id for key share;

-- name: lock_issue_title(workspace_id, project_id, parent_id, title)!
-- Transactions that file the same title in the same place wait here for each other. The look-up is a separate
-- statement, because only a snapshot that was taken after the wait sees the issue of the other transaction.
select pg_advisory_xact_lock(
  hashtextextended(
    concat_ws('|', :workspace_id::text, :project_id::text, 'under', :parent_id::text, issue_title_key(:title)), 3
  )
);

-- name: find_open_issue(workspace_id, project_id, parent_id, title)^
-- The oldest open issue of the same title in the same place. Two missing projects count as equal, and so do two missing
-- parents.
select id, workspace_id, number, title, status, project_id, parent_issue_id
from issue
where workspace_id = :workspace_id and issue_title_key(title) = issue_title_key(:title)
  and status not in ('done', 'cancelled')
  and project_id is not distinct from :project_id::uuid and parent_issue_id is not distinct from :parent_id::uuid
order by created_at, number
limit 1;

-- name: take_issue_number(workspace_id)$
-- The row lock serialises the issues of a workspace until the commit, so numbers have neither gaps nor duplicates.
update workspace set issue_counter = issue_counter + 1 where id = :workspace_id returning issue_counter;

-- name: create_issue(id, workspace_id, number, title, description, status, priority, project_id, parent_id, assignee_type, assignee_id, creator_type, creator_id, origin_type, origin_id)^
-- Puts the issue on top of its column.
insert into issue (id, workspace_id, number, title, description, status, priority, project_id, parent_issue_id,
  assignee_type, assignee_id, creator_type, creator_id, origin_type, origin_id, position)
values (:id, :workspace_id, :number, :title, :description, :status, :priority, :project_id, :parent_id,
  :assignee_type, :assignee_id, :creator_type, :creator_id, :origin_type, :origin_id,
  coalesce((select min(position) from issue where workspace_id = :workspace_id and status = :status), 1) - 1)
returning id, workspace_id, number, title, status, project_id, parent_issue_id;

-- name: take_issue_attachments(issue_id, message_id, fetch_seconds)
-- From here on the issue waits for these files. A file that is fetched already stays as it is.
with taken as (
  update chat_attachment
  set issue_id = :issue_id,
    deadline_at = case status when 'pending' then now() + make_interval(secs => :fetch_seconds) else deadline_at end
  where chat_message_id = :message_id
  returning id, kind, n
), told as (
  select pg_notify('gateway_attachment', '') where exists (select from taken)
)
select id, kind from taken where (select count(*) from told) >= 0 order by n;

-- name: set_issue_description(workspace_id, issue_id, description)!
-- Within the transaction that filed the issue. The addresses of its pictures are known only once they belong to the
-- issue.
update issue set description = :description where id = :issue_id and workspace_id = :workspace_id;

-- name: enqueue_issue_task(task_id, issue_id, initiator_id, silent_seconds)^
-- Queues the run of the agent of the issue, or of the leader of its squad. No row if the issue has no such agent, or is
-- not to run yet (backlog). An agent without a runtime gets its run all the same, and only live listeners are told.
with target as (
  select issue.id as issue_id, issue.workspace_id, agent.id as agent_id, agent.runtime_id,
    agent.archived_at is not null as agent_archived,
    agent_absence(agent.archived_at, agent.runtime_id, agent.runtime_set_at, runtime.last_heartbeat_at,
      :silent_seconds) is not null as absent
  from issue
  left join squad on issue.assignee_type = 'squad' and squad.id = issue.assignee_id
    and squad.workspace_id = issue.workspace_id
  join agent on agent.workspace_id = issue.workspace_id
    and agent.id = case issue.assignee_type when 'agent' then issue.assignee_id when 'squad' then squad.leader_agent_id end
  left join agent_runtime runtime on runtime.id = agent.runtime_id and runtime.workspace_id = agent.workspace_id
  where issue.id = :issue_id and issue.status <> 'backlog'
), queued as (
  insert into agent_task (id, workspace_id, agent_id, kind, issue_id, initiator_user_id)
  select :task_id, workspace_id, agent_id, 'issue', issue_id, :initiator_id
  from target where not agent_archived
  returning id
), told as (
  select pg_notify('gateway_task', target.runtime_id::text)
  from target cross join queued
  where target.runtime_id is not null
), announced as (
  select pg_notify('gateway_event', json_build_object('event', 'task:queued', 'workspace_id', target.workspace_id,
    'task_id', queued.id, 'agent_id', target.agent_id, 'issue_id', target.issue_id, 'chat_session_id', null,
    'status', 'queued')::text)
  from target cross join queued
)
select agent_archived, runtime_id is not null as has_runtime, absent
from target
where (select count(*) from told) >= 0 and (select count(*) from announced) >= 0;
