-- Triggers of autopilots, as people set them up, and the secrets that their senders sign with.

-- name: list_triggers(autopilot_id)
-- In the order of their creation. Only the last characters of a secret leave the database.
select t.id, t.workspace_id, t.autopilot_id, t.kind, t.enabled, t.cron_expression, t.timezone, t.next_run_at,
  t.webhook_token, t.provider, t.event_filters, t.label, t.last_fired_at, t.created_at, t.updated_at,
  coalesce((
    select json_agg(json_build_object('id', s.id, 'hint', s.last_four, 'expires_at', s.expires_at,
      'created_at', s.created_at) order by s.created_at, s.id)
    from webhook_signing_secret s where s.trigger_id = t.id), '[]') as secrets
from autopilot_trigger t
where t.autopilot_id = :autopilot_id
order by t.created_at, t.id;

-- name: get_trigger(autopilot_id, trigger_id)^
-- No row for a trigger of another autopilot.
select t.id, t.workspace_id, t.autopilot_id, t.kind, t.enabled, t.cron_expression, t.timezone, t.next_run_at,
  t.webhook_token, t.provider, t.event_filters, t.label, t.last_fired_at, t.created_at, t.updated_at,
  coalesce((
    select json_agg(json_build_object('id', s.id, 'hint', s.last_four, 'expires_at', s.expires_at,
      'created_at', s.created_at) order by s.created_at, s.id)
    from webhook_signing_secret s where s.trigger_id = t.id), '[]') as secrets
from autopilot_trigger t
where t.autopilot_id = :autopilot_id and t.id = :trigger_id;

-- name: add_trigger(id, workspace_id, autopilot_id, token, provider, enabled, label, event_filters)!
-- The unique index decides if two triggers were given the same token.
insert into autopilot_trigger (id, workspace_id, autopilot_id, kind, webhook_token, provider, enabled, label, event_filters)
values (:id, :workspace_id, :autopilot_id, 'webhook', :token, :provider, coalesce(:enabled::boolean, true), :label,
  :event_filters::jsonb);

-- name: change_trigger(workspace_id, trigger_id, enabled, provider, label, sets_filters, event_filters)!
-- A null leaves its column as it is. Filters may become null, so they have a separate parameter that says if they are
-- set. Runs under the lock of the trigger: if a secret was added meanwhile, the provider stays, because another
-- provider might not require it.
update autopilot_trigger
set enabled = coalesce(:enabled::boolean, enabled), provider = case
    when exists (select from webhook_signing_secret where trigger_id = :trigger_id) then provider
    else coalesce(:provider::text, provider) end, label = coalesce(:label::text, label),
  event_filters = case when :sets_filters then :event_filters::jsonb else event_filters end, updated_at = now()
where workspace_id = :workspace_id and id = :trigger_id;

-- name: rotate_trigger_token(workspace_id, trigger_id, token)!
-- From this commit on no request is accepted at the old address.
update autopilot_trigger set webhook_token = :token, updated_at = now()
where workspace_id = :workspace_id and id = :trigger_id and kind = 'webhook';

-- name: delete_trigger(workspace_id, trigger_id)!
-- Its secrets are deleted with it. The deliveries that it received stay in the log.
delete from autopilot_trigger where workspace_id = :workspace_id and id = :trigger_id;

-- name: lock_trigger(workspace_id, trigger_id)$
-- Transactions that change the secrets or the provider of one trigger at the same time wait for each other.
select id from autopilot_trigger where workspace_id = :workspace_id and id = :trigger_id for no key update;

-- name: count_trigger_secrets(trigger_id)$
-- A sender has few secrets, because each one is tried on every request.
select count(*) from webhook_signing_secret where trigger_id = :trigger_id;

-- name: add_trigger_secret(id, workspace_id, trigger_id, sealed, last_four, expires_at, user_id)!
-- Sealed for the id of its own row, so a copy in another row does not open.
insert into webhook_signing_secret
  (id, workspace_id, trigger_id, secret_encrypted, last_four, expires_at, created_by_id)
values (:id, :workspace_id, :trigger_id, :sealed, :last_four, :expires_at, :user_id);

-- name: delete_trigger_secrets(workspace_id, trigger_id)!
-- In the transaction that inserts their replacements, if any.
delete from webhook_signing_secret where workspace_id = :workspace_id and trigger_id = :trigger_id;

-- name: delete_trigger_secret(workspace_id, trigger_id, secret_id)!
-- From this commit on it matches no signature.
delete from webhook_signing_secret where workspace_id = :workspace_id and trigger_id = :trigger_id and id = :secret_id;
