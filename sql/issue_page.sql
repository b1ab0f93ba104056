-- Issues, as people see one on a page.

-- name: find_issue(user_id, workspace, prefix, number)^
-- For members only. Two workspaces may have the same prefix. If no workspace is named, the one that the person joined
-- first is used.
select issue.id, issue.workspace_id, workspace.slug as workspace_slug, workspace.issue_prefix || '-' || issue.number as key,
  issue.title, issue.description, issue.status, issue.created_at,
  coalesce(agent.name, nullif(person.name, ''), person.email) as assignee
from issue
join workspace on workspace.id = issue.workspace_id
join member viewer on viewer.workspace_id = workspace.id and viewer.user_id = :user_id
left join agent on issue.assignee_type = 'agent' and agent.id = issue.assignee_id
left join app_user person on issue.assignee_type = 'member' and person.id = issue.assignee_id
where upper(workspace.issue_prefix) = upper(:prefix) and issue.number = :number
  and (:workspace::text is null or workspace.slug = :workspace)
order by viewer.created_at, workspace.id
limit 1;

-- name: list_issue_comments(issue_id, workspace_id, row_limit)
-- The latest comments, oldest first. Comments of the gateway itself have no author.
select latest.author_type, latest.author, latest.body, latest.created_at
from (
  select comment.author_type, coalesce(agent.name, nullif(person.name, ''), person.email, '') as author, comment.body,
    comment.created_at, comment.id
  from issue_comment comment
  left join agent on comment.author_type = 'agent' and agent.id = comment.author_id
  left join app_user person on comment.author_type = 'member' and person.id = comment.author_id
  where comment.issue_id = :issue_id and comment.workspace_id = :workspace_id
  order by comment.created_at desc, comment.id desc
  limit :row_limit
) latest
order by latest.created_at, latest.id;
