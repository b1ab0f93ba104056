-- What the commands of an operator find, list and remove, across workspaces.

-- name: find_users(reference, rows_max)
-- By id, by address, or by a name that several people may have.
select id, email as path,
  case when id::text = lower(:reference) then 0 when email = lower(:reference) then 1 else 2 end as rank
from app_user
where id::text = lower(:reference) or email = lower(:reference) or name = :reference
order by rank, path
limit :rows_max;

-- name: find_workspaces(reference, rows_max)
-- By id, by slug, or by a name that several workspaces may have.
select id, slug as path,
  case when id::text = lower(:reference) then 0 when slug = :reference then 1 else 2 end as rank
from workspace
where id::text = lower(:reference) or slug = :reference or name = :reference
order by rank, path
limit :rows_max;

-- name: find_agents(workspace_id, reference, rows_max)
-- By id, by WORKSPACE/NAME, or by name. Agents of several workspaces may have the same name.
select agent.id, workspace.slug || '/' || agent.name as path,
  case
    when agent.id::text = lower(:reference) then 0
    when workspace.slug || '/' || agent.name = :reference then 1
    else 2
  end as rank
from agent
join workspace on workspace.id = agent.workspace_id
where (:workspace_id::uuid is null or agent.workspace_id = :workspace_id)
  and (agent.id::text = lower(:reference) or agent.name = :reference
    or workspace.slug || '/' || agent.name = :reference)
order by rank, path
limit :rows_max;

-- name: find_runtimes(workspace_id, reference, rows_max)
-- As find_agents.
select runtime.id, workspace.slug || '/' || runtime.name as path,
  case
    when runtime.id::text = lower(:reference) then 0
    when workspace.slug || '/' || runtime.name = :reference then 1
    else 2
  end as rank
from agent_runtime runtime
join workspace on workspace.id = runtime.workspace_id
where (:workspace_id::uuid is null or runtime.workspace_id = :workspace_id)
  and (runtime.id::text = lower(:reference) or runtime.name = :reference
    or workspace.slug || '/' || runtime.name = :reference)
order by rank, path
limit :rows_max;

-- name: find_tokens(reference, rows_max)
-- By id, also if revoked; or by OWNER/NAME or name, among those that are live. Names need not be unique.
with named as (
  select token.id, token.name, token.revoked_at,
    coalesce(owner.email, workspace.slug || '/' || runtime.name) || '/' || token.name as path
  from api_token token
  left join app_user owner on owner.id = token.user_id
  left join agent_runtime runtime on runtime.id = token.runtime_id
  left join workspace on workspace.id = runtime.workspace_id
)
select id, id::text || ' (' || path || ')' as path,
  case when id::text = lower(:reference) then 0 when named.path = :reference then 1 else 2 end as rank
from named
where id::text = lower(:reference)
  or (revoked_at is null and (named.path = :reference or (name = :reference and name <> '')))
order by rank, path
limit :rows_max;

-- name: find_installations(channel_type, reference, rows_max)
-- By id, by the id of the app, or by its agent: an agent has at most one row of each platform.
select installation.id, coalesce(workspace.slug || '/' || agent.name, installation.config ->> 'app_id', '') as path,
  case
    when installation.id::text = lower(:reference) then 0
    when installation.config ->> 'app_id' = :reference then 1
    when agent.id::text = lower(:reference) or workspace.slug || '/' || agent.name = :reference then 2
    else 3
  end as rank
from channel_installation installation
left join agent on agent.id = installation.agent_id and agent.workspace_id = installation.workspace_id
left join workspace on workspace.id = agent.workspace_id
where installation.channel_type = :channel_type
  and (installation.id::text = lower(:reference) or installation.config ->> 'app_id' = :reference
    or agent.id::text = lower(:reference) or agent.name = :reference
    or workspace.slug || '/' || agent.name = :reference)
order by rank, path
limit :rows_max;

-- name: list_users(id)
-- One person, or all.
select id, email, name, created_at
from app_user
where :id::uuid is null or id = :id
order by email;

-- name: list_workspaces(id)
-- One workspace, or all.
select id, name, slug, issue_prefix, language, created_at
from workspace
where :id::uuid is null or id = :id
order by slug;

-- name: list_members(workspace_id, user_id)
-- Of a workspace, or of all; all members, or one.
select m.user_id as id, m.workspace_id, m.user_id, u.email, u.name, m.role, m.created_at
from member m
join app_user u on u.id = m.user_id
where (:workspace_id::uuid is null or m.workspace_id = :workspace_id)
  and (:user_id::uuid is null or m.user_id = :user_id)
order by u.email;

-- name: list_all_agents(id, workspace_id)
-- One agent, those of a workspace, or all: an operator sees private agents too.
select agent.id, agent.workspace_id, agent.name, agent.owner_id, agent.runtime_id, agent.visibility,
  agent.max_concurrent_tasks, agent.archived_at, agent.created_at, workspace.slug as workspace, owner.email as owner,
  runtime.name as runtime
from agent
join workspace on workspace.id = agent.workspace_id
left join app_user owner on owner.id = agent.owner_id
left join agent_runtime runtime on runtime.id = agent.runtime_id and runtime.workspace_id = agent.workspace_id
where (:id::uuid is null or agent.id = :id) and (:workspace_id::uuid is null or agent.workspace_id = :workspace_id)
order by workspace.slug, lower(agent.name), agent.id;

-- name: list_runtimes(id, workspace_id)
-- One runtime, those of a workspace, or all.
select runtime.id, runtime.workspace_id, runtime.name, runtime.kind, runtime.version, runtime.last_heartbeat_at,
  runtime.created_at, workspace.slug as workspace
from agent_runtime runtime
join workspace on workspace.id = runtime.workspace_id
where (:id::uuid is null or runtime.id = :id)
  and (:workspace_id::uuid is null or runtime.workspace_id = :workspace_id)
order by workspace.slug, lower(runtime.name), runtime.id;

-- name: list_tokens(id, user_id)
-- One token, those of a person, or all, also revoked ones. Never their hashes.
select token.id, token.user_id, token.runtime_id, token.name, token.created_at,
  coalesce(owner.email, workspace.slug || '/' || runtime.name, '') as owner, token.last_used_at, token.revoked_at
from api_token token
left join app_user owner on owner.id = token.user_id
left join agent_runtime runtime on runtime.id = token.runtime_id
left join workspace on workspace.id = runtime.workspace_id
where (:id::uuid is null or token.id = :id) and (:user_id::uuid is null or token.user_id = :user_id)
order by token.revoked_at is not null, owner, token.created_at, token.id;

-- name: revoke_token(id)!
-- A second revocation keeps the first time.
update api_token set revoked_at = coalesce(revoked_at, now()) where id = :id;

-- name: replace_runtime_token(runtime_id, token_id, hashed)!
-- One statement, so that there is no moment at which both tokens work, or neither.
with former as (
  update api_token set revoked_at = now() where runtime_id = :runtime_id and revoked_at is null
)
insert into api_token (id, runtime_id, name, token_hash)
select :token_id, id, name, :hashed from agent_runtime where id = :runtime_id;

-- name: hold_user(id)$
-- The first statement of a removal. New rows that name the person wait for its end.
select true from app_user where id = :id for update;

-- name: hold_workspace(id)$
-- As hold_user.
select true from workspace where id = :id for update;

-- name: hold_agent(id)$
-- As hold_user.
select true from agent where id = :id for update;

-- name: hold_runtime(id)$
-- As hold_user.
select true from agent_runtime where id = :id for update;

-- name: dependents_of_user(id)
-- What would be left without an owner. A membership is no obstacle: it ends with the person.
select 'workspace as its only owner' as what, count(*) as count, min(workspace.slug) as example
from member m
join workspace on workspace.id = m.workspace_id
where m.user_id = :id and m.role = 'owner'
  and not exists (
    select from member other
    where other.workspace_id = m.workspace_id and other.role = 'owner' and other.user_id <> m.user_id
  )
having count(*) > 0
union all
select 'agent as its owner', count(*), min(workspace.slug || '/' || agent.name)
from agent
join workspace on workspace.id = agent.workspace_id
where agent.owner_id = :id
having count(*) > 0;

-- name: dependents_of_workspace(id)
-- What the removal would take with it.
select 'agent' as what, count(*) as count, min(name) as example from agent where workspace_id = :id having count(*) > 0
union all
select 'runtime', count(*), min(name) from agent_runtime where workspace_id = :id having count(*) > 0
union all
select 'squad', count(*), min(name) from squad where workspace_id = :id having count(*) > 0
union all
select 'project', count(*), min(name) from project where workspace_id = :id having count(*) > 0
union all
select 'autopilot', count(*), min(title) from autopilot where workspace_id = :id having count(*) > 0
union all
select 'issue', count(*), min(w.issue_prefix || '-' || issue.number)
from issue
join workspace w on w.id = issue.workspace_id
where issue.workspace_id = :id
having count(*) > 0;

-- name: dependents_of_agent(id)
-- What the removal would take with it, or leave without an agent. A revoked bot is no obstacle.
select 'live bot' as what, count(*) as count, min(config ->> 'app_id') as example
from channel_installation where agent_id = :id and status = 'active' having count(*) > 0
union all
select 'conversation', count(*), null from chat_session where agent_id = :id having count(*) > 0
union all
select 'run', count(*), null from agent_task where agent_id = :id having count(*) > 0
union all
select 'squad as its leader', count(*), min(name) from squad where leader_agent_id = :id having count(*) > 0
union all
select 'autopilot', count(*), min(title)
from autopilot where assignee_type = 'agent' and assignee_id = :id having count(*) > 0
union all
select 'issue', count(*), min(w.issue_prefix || '-' || issue.number)
from issue
join workspace w on w.id = issue.workspace_id
where issue.assignee_type = 'agent' and issue.assignee_id = :id
having count(*) > 0;

-- name: dependents_of_runtime(id)
-- The agents that would have nowhere to run, and the runs that are on it now.
select 'agent' as what, count(*) as count, min(workspace.slug || '/' || agent.name) as example
from agent
join workspace on workspace.id = agent.workspace_id
where agent.runtime_id = :id
having count(*) > 0
union all
select 'unfinished run', count(*), null
from agent_task where runtime_id = :id and status in ('dispatched', 'running') having count(*) > 0;

-- name: delete_bindings_of_user(user_id)!
-- In every workspace: a binding must not outlive the person.
delete from channel_user_binding where user_id = :user_id;

-- name: workspaces_of_user(user_id)
-- Those whose live listeners are told that the membership ended.
select workspace_id from member where user_id = :user_id;

-- name: delete_user(id)!
-- Memberships, sessions and tokens go with the row.
delete from app_user where id = :id;

-- name: delete_workspace(id)!
-- Memberships go with the row.
delete from workspace where id = :id;

-- name: delete_bindings_of_workspace(workspace_id)!
-- Of bots that were revoked: there are no foreign keys to do it.
delete from channel_user_binding where workspace_id = :workspace_id;

-- name: delete_agent(id, workspace_id)!
-- What depends on it has been looked for in the same transaction.
delete from agent where id = :id and workspace_id = :workspace_id;

-- name: delete_runtime(id, workspace_id)!
-- Its tokens go with the row.
delete from agent_runtime where id = :id and workspace_id = :workspace_id;
