-- Agents, squads and projects, as members of a workspace see and create them.

-- name: list_agents(workspace_id, owner_id, all_private, limit, offset)
-- Agents that the person may not see are left out, and leave no gap in the pages.
select id, workspace_id, name, owner_id, runtime_id, visibility, max_concurrent_tasks, archived_at, created_at
from agent
where workspace_id = :workspace_id and (visibility <> 'private' or :all_private or owner_id = :owner_id::uuid)
order by lower(name), id
limit :limit offset :offset;

-- name: count_agents(workspace_id, owner_id, all_private)$
-- The number of rows on all pages.
select count(*) from agent
where workspace_id = :workspace_id and (visibility <> 'private' or :all_private or owner_id = :owner_id::uuid);

-- name: list_squads(workspace_id, limit, offset)
-- By name. The id settles ties of names that differ only in case.
select id, workspace_id, name, leader_agent_id, archived_at, created_at
from squad
where workspace_id = :workspace_id
order by lower(name), id
limit :limit offset :offset;

-- name: count_squads(workspace_id)$
-- The number of rows on all pages.
select count(*) from squad where workspace_id = :workspace_id;

-- name: list_projects(workspace_id, limit, offset)
-- By name. The id settles ties.
select id, workspace_id, name, created_at
from project
where workspace_id = :workspace_id
order by lower(name), id
limit :limit offset :offset;

-- name: count_projects(workspace_id)$
-- The number of rows on all pages.
select count(*) from project where workspace_id = :workspace_id;

-- name: insert_squad(id, workspace_id, name, leader_agent_id)^
-- If the leader is deleted later, the squad has none.
insert into squad (id, workspace_id, name, leader_agent_id)
values (:id, :workspace_id, :name, :leader_agent_id)
returning id, workspace_id, name, leader_agent_id, archived_at, created_at;

-- name: insert_project(id, workspace_id, name)^
-- Two projects may have the same name.
insert into project (id, workspace_id, name) values (:id, :workspace_id, :name)
returning id, workspace_id, name, created_at;
