-- Bindings: the person behind each platform account.

-- name: create_binding(id, installation_id, channel_user_id, email, config)^
-- One statement decides. The person must be a member now, and the member's row is locked against a removal at the same
-- moment. An account that is bound to another person stays theirs (no row returned). Binding the same person again
-- keeps the binding's id and renews its time. The platform's data about the account is merged into its config.
with person as (
  select i.id as installation_id, i.workspace_id, i.channel_type, m.user_id
  from channel_installation i
  join app_user u on u.email = lower(:email)
  join member m on m.workspace_id = i.workspace_id and m.user_id = u.id
  where i.id = :installation_id
  for key share of m
)
insert into channel_user_binding as b
  (id, workspace_id, user_id, installation_id, channel_type, channel_user_id, config)
select :id, workspace_id, user_id, installation_id, channel_type, :channel_user_id, :config::jsonb
from person
on conflict on constraint channel_user_binding_key do update
set config = b.config || excluded.config, bound_at = now()
where b.user_id = excluded.user_id
returning b.id, b.workspace_id, b.installation_id, b.user_id, b.channel_user_id, b.bound_at;

-- name: explain_binding(installation_id, channel_user_id, email)^
-- The reasons why create_binding gave no row, so that the refusal can name the obstacle. It runs only after a refusal.
select
  exists (select from channel_installation where id = :installation_id) as installation,
  exists (select from app_user where email = lower(:email)) as person,
  exists (
    select from member m
    join app_user u on u.id = m.user_id
    join channel_installation i on i.workspace_id = m.workspace_id
    where i.id = :installation_id and u.email = lower(:email)) as member,
  exists (
    select from channel_user_binding
    where installation_id = :installation_id and channel_user_id = :channel_user_id) as taken;

-- name: mint_binding_token(hashed, installation_id, channel_user_id, link_seconds)$
-- Returns the language in which to ask an account to bind. No row when there is nothing to ask: the account is bound by
-- now, or its bot is revoked. The database's clock sets the expiry of the token. Without a hash no token is created.
with account as (
  select installation.id, installation.workspace_id, installation.channel_type, workspace.language
  from channel_installation installation
  join workspace on workspace.id = installation.workspace_id
  where installation.id = :installation_id and installation.status = 'active'
    and not exists (
      select from channel_user_binding binding
      where binding.installation_id = installation.id and binding.channel_user_id = :channel_user_id
    )
), minted as (
  insert into channel_binding_token
    (token_hash, workspace_id, installation_id, channel_type, channel_user_id, expires_at)
  select :hashed::text, workspace_id, id, channel_type, :channel_user_id, now() + make_interval(secs => :link_seconds)
  from account
  where :hashed::text is not null
)
select language from account;

-- name: preview_binding_token(hashed, user_id)^
-- Reads the token that consume_binding_token would consume, and consumes nothing. The caller judges, as the binding
-- transaction would, whom the account belongs to by now and if the reader is a member.
select token.workspace_id, workspace.name as workspace_name, workspace.slug as workspace_slug,
  token.installation_id, installation.channel_type, coalesce(installation.config ->> 'app_id', '') as app_id,
  agent.id as agent_id, agent.name as agent_name, token.channel_user_id, token.created_at as asked_at,
  extract(epoch from now() - token.created_at)::double precision as asked_seconds_ago,
  reader.id as reader_id, reader.email as reader_email, reader.name as reader_name, member.role,
  binding.user_id as bound_user_id
from channel_binding_token token
join channel_installation installation on installation.id = token.installation_id
  and installation.workspace_id = token.workspace_id and installation.status = 'active'
join workspace on workspace.id = token.workspace_id
join app_user reader on reader.id = :user_id
left join agent on agent.id = installation.agent_id and agent.workspace_id = installation.workspace_id
left join member on member.workspace_id = token.workspace_id and member.user_id = reader.id
left join channel_user_binding binding on binding.installation_id = token.installation_id
  and binding.channel_user_id = token.channel_user_id
where token.token_hash = :hashed and token.consumed_at is null and token.expires_at > now();

-- name: consume_binding_token(hashed)^
-- The first statement of the binding transaction. If two people redeem one token at the same moment, the second waits
-- here and then finds it consumed. A token that is unknown, expired, used, or for a revoked bot gives no row in each
-- case.
update channel_binding_token token
set consumed_at = now()
from channel_installation installation
where token.token_hash = :hashed and token.consumed_at is null and token.expires_at > now()
  and installation.id = token.installation_id and installation.workspace_id = token.workspace_id
  and installation.status = 'active'
returning token.workspace_id, token.installation_id, token.channel_user_id;

-- name: lock_membership(workspace_id, user_id)$
-- Locks the membership against a removal until the binding is committed.
select true from member where workspace_id = :workspace_id and user_id = :user_id for key share;

-- name: bind_account(id, installation_id, channel_user_id, user_id)^
-- An account that is bound to another person stays theirs (no row). Binding the same person again keeps the binding's id
-- and renews its time.
insert into channel_user_binding as b
  (id, workspace_id, user_id, installation_id, channel_type, channel_user_id)
select :id, workspace_id, :user_id, id, channel_type, :channel_user_id
from channel_installation
where id = :installation_id
on conflict on constraint channel_user_binding_key do update
set bound_at = now()
where b.user_id = excluded.user_id
returning b.id, b.workspace_id, b.installation_id, b.user_id, b.channel_user_id, b.bound_at;

-- name: list_bound_people(workspace_id, installation_id)
-- For display: the person behind each account, those bound last first. No rows for a bot of another workspace.
select b.id, b.installation_id, b.user_id, b.channel_user_id, u.email, u.name, b.bound_at
from channel_user_binding b
join channel_installation i on i.id = b.installation_id and i.workspace_id = b.workspace_id
join app_user u on u.id = b.user_id
where b.workspace_id = :workspace_id and b.installation_id = :installation_id
order by b.bound_at desc, b.id desc;

-- name: installation_of_workspace(workspace_id, installation_id)$
-- Distinguishes a bot without bindings from a bot that does not exist.
select true from channel_installation where workspace_id = :workspace_id and id = :installation_id;

-- name: delete_binding_by_id(workspace_id, installation_id, binding_id)!
-- Deletes by the id that list_bound_people returns.
delete from channel_user_binding
where workspace_id = :workspace_id and installation_id = :installation_id and id = :binding_id;

-- name: delete_binding(installation_id, channel_user_id)!
-- Deletes by the pair that a person or an operator can name. The workspace follows from the installation.
delete from channel_user_binding b
using channel_installation i
where i.id = :installation_id and b.installation_id = i.id and b.workspace_id = i.workspace_id
  and b.channel_user_id = :channel_user_id;

-- name: list_bindings(installation_id)
-- Those bound last first. The join leaves out accounts that were bound before the row moved to another workspace.
select b.id, b.workspace_id, b.installation_id, b.user_id, b.channel_user_id, b.bound_at
from channel_user_binding b
join channel_installation i on i.id = b.installation_id and i.workspace_id = b.workspace_id
where b.installation_id = :installation_id
order by b.bound_at desc, b.id desc;

-- name: delete_bindings_of_member(workspace_id, user_id)!
-- A binding must not outlive the membership. This runs in the transaction that removes the member.
delete from channel_user_binding
where workspace_id = :workspace_id and user_id = :user_id;
