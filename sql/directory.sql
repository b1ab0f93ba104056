-- People, workspaces, members, agents, runtimes and tokens.

-- name: touch_token(hashed)^
-- Identifies the caller in one round trip per request. The time of use is written at most once a minute. Otherwise a
-- busy runtime would update the same row with every request.
with owner as (
  select t.id, t.user_id, t.runtime_id, r.workspace_id, t.last_used_at
  from api_token t
  left join agent_runtime r on r.id = t.runtime_id
  where t.token_hash = :hashed and t.revoked_at is null
), touched as (
  update api_token t set last_used_at = now()
  from owner
  where t.id = owner.id and (owner.last_used_at is null or owner.last_used_at < now() - interval '1 minute')
)
select user_id, runtime_id, workspace_id from owner;

-- name: user_by_email(email)^
-- The caller passes lower case. The column holds lower case only, so its index serves the query as it is.
select id, email, name, created_at from app_user where email = :email;

-- name: workspace(reference)^
-- A slug may look like an id. The id takes precedence, so that a reference by id can never be taken over by a slug.
select id, name, slug, issue_prefix, language, created_at
from workspace
where id::text = lower(:reference) or slug = :reference
order by id::text = lower(:reference) desc
limit 1;

-- name: member(workspace_id, user_id)^
-- For display, and for checking that a person is a member of the workspace.
select m.user_id as id, m.workspace_id, m.user_id, u.email, u.name, m.role, m.created_at
from member m
join app_user u on u.id = m.user_id
where m.workspace_id = :workspace_id and m.user_id = :user_id;

-- name: first_owner(workspace_id)$
-- The owner of longest standing, who is responsible where no person was named.
select user_id from member where workspace_id = :workspace_id and role = 'owner' order by created_at, user_id limit 1;

-- name: agent(agent_id)^
-- By id alone. The caller learns the workspace from the row, and checks it if a person is asking.
select id, workspace_id, name, owner_id, runtime_id, visibility, max_concurrent_tasks, archived_at, created_at
from agent
where id = :agent_id;

-- name: runtime(workspace_id, runtime_id)^
-- No row for a runtime of another workspace.
select id, workspace_id, name, kind, version, last_heartbeat_at, created_at
from agent_runtime
where workspace_id = :workspace_id and id = :runtime_id;

-- name: add_user(user_id, email, name, password_hash)^
-- The unique address decides if two callers add the same person.
insert into app_user (id, email, name, password_hash)
values (:user_id, :email, :name, :password_hash)
returning id, email, name, created_at;

-- name: lock_workspaces()!
-- Held while a workspace is added. Otherwise two workspaces that are added at once could take the same prefix.
lock table workspace in share row exclusive mode;

-- name: prefix_in_use(prefix)$
-- Workspaces may share a prefix if an operator wants it, so no constraint forbids it.
select exists (select from workspace where issue_prefix = :prefix);

-- name: add_workspace(workspace_id, name, slug, prefix, language, owner_id)^
-- One statement, so that a workspace without an owner can never be left behind.
with added as (
  insert into workspace (id, name, slug, issue_prefix, language)
  values (:workspace_id, :name, :slug, :prefix, :language)
  returning id, name, slug, issue_prefix, language, created_at
), owner as (
  insert into member (workspace_id, user_id, role) select id, :owner_id, 'owner' from added
)
select id, name, slug, issue_prefix, language, created_at from added;

-- name: set_workspace_language(workspace_id, language)^
-- Applies to messages from now on. Waiting messages stay as they were written.
update workspace set language = :language where id = :workspace_id
returning id, name, slug, issue_prefix, language, created_at;

-- name: add_member(workspace_id, user_id, role)^
-- Returns the same row as `member`, so that no second query is needed.
with added as (
  insert into member (workspace_id, user_id, role)
  values (:workspace_id, :user_id, :role)
  returning workspace_id, user_id, role, created_at
)
select a.user_id as id, a.workspace_id, a.user_id, u.email, u.name, a.role, a.created_at
from added a
join app_user u on u.id = a.user_id;

-- name: set_password(user_id, password_hash)!
-- The first statement of its transaction. It waits for sign-ins that are under way with the former password, so that
-- end_sessions then finds all sessions.
update app_user set password_hash = :password_hash where id = :user_id;

-- name: end_sessions(user_id)!
-- Signs out every holder of the former password, on every replica.
delete from user_session where user_id = :user_id;

-- name: set_member_role(workspace_id, user_id, role)^
-- Returns the same row as `member`.
with changed as (
  update member set role = :role where workspace_id = :workspace_id and user_id = :user_id
  returning workspace_id, user_id, role, created_at
)
select c.user_id as id, c.workspace_id, c.user_id, u.email, u.name, c.role, c.created_at
from changed c
join app_user u on u.id = c.user_id;

-- name: lock_owners(workspace_id)
-- Held while a membership ends or a role changes. Otherwise two owners who leave at the same time could each take the
-- other for the one that stays.
select user_id from member where workspace_id = :workspace_id and role = 'owner' for update;

-- name: delete_member(workspace_id, user_id)!
-- The first statement of its transaction. It waits for bindings of this member that are under way, so that the deletion
-- of bindings then finds all of them.
delete from member where workspace_id = :workspace_id and user_id = :user_id;

-- name: add_agent(agent_id, workspace_id, name, owner_id, runtime_id, visibility)^
-- The unique name decides. The caller has checked the runtime, and its later deletion does no harm.
insert into agent (id, workspace_id, name, owner_id, runtime_id, visibility)
values (:agent_id, :workspace_id, :name, :owner_id, :runtime_id, :visibility)
returning id, workspace_id, name, owner_id, runtime_id, visibility, max_concurrent_tasks, archived_at, created_at;

-- name: change_agent(id, workspace_id, name, owner_id, sets_runtime, runtime_id, archived)^
-- Changes only what is asked for, so that two people who change different things both keep their change. Archiving
-- twice keeps the first time. Tasks that wait for the agent belong from now on to its runtime, which is woken.
with changed as (
  update agent
  set name = coalesce(:name::text, name), owner_id = coalesce(:owner_id::uuid, owner_id),
    runtime_id = case when :sets_runtime then :runtime_id::uuid else runtime_id end,
    archived_at = case
      when :archived::boolean is null then archived_at
      when :archived then coalesce(archived_at, now())
    end
  where id = :id and workspace_id = :workspace_id
  returning id, workspace_id, name, owner_id, runtime_id, visibility, max_concurrent_tasks, archived_at, created_at
), told as (
  select pg_notify('gateway_task', runtime_id::text) from changed where runtime_id is not null
)
select id, workspace_id, name, owner_id, runtime_id, visibility, max_concurrent_tasks, archived_at, created_at
from changed
where (select count(*) from told) >= 0;

-- name: add_user_token(token_id, user_id, name, hashed)^
-- Only the hash is stored.
insert into api_token (id, user_id, name, token_hash)
values (:token_id, :user_id, :name, :hashed)
returning id, user_id, runtime_id, name, created_at;

-- name: add_runtime(runtime_id, workspace_id, name, token_id, hashed)^
-- One statement. If only the runtime were stored, it could not be used without a token, and its name would be taken.
with added as (
  insert into agent_runtime (id, workspace_id, name)
  values (:runtime_id, :workspace_id, :name)
  returning id, workspace_id, name, kind, version, last_heartbeat_at, created_at
), token as (
  insert into api_token (id, runtime_id, name, token_hash) select :token_id, id, name, :hashed from added
)
select id, workspace_id, name, kind, version, last_heartbeat_at, created_at from added;
