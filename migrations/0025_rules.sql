-- Constraints, defaults and indexes that rules of the tables need.
-- depends: 0024_own_messages

-- The adapter has always read an unknown region as the default one. A row without a region has the default, too.
update channel_installation set config = jsonb_set(config, '{region}', '"feishu"')
where channel_type = 'feishu' and config ->> 'region' not in ('feishu', 'lark');
alter table channel_installation add constraint channel_installation_region_check
  check (channel_type <> 'feishu' or coalesce(config ->> 'region', 'feishu') in ('feishu', 'lark'));

-- An account is looked for in all bots of a workspace; drops are looked for by their reason, newest first.
create index channel_user_binding_account_idx on channel_user_binding (workspace_id, channel_user_id);
create index channel_inbound_audit_reason_idx on channel_inbound_audit (drop_reason, received_at desc);

-- A card exists before the platform has drawn it.
alter table channel_outbound_card_message alter column status set default 'pending';
create index channel_outbound_card_message_session_idx on channel_outbound_card_message (chat_session_id, created_at desc);

-- The gateway's own comments have the zero UUID as their author, so that every comment has one.
update issue_comment set author_id = '00000000-0000-0000-0000-000000000000'
where author_type = 'system' and author_id is null;
alter table issue_comment add constraint issue_comment_system_author_check
  check (author_type <> 'system' or author_id is not distinct from '00000000-0000-0000-0000-000000000000');

-- As before, but the time at which a delivery was settled is that of its last attempt.
create or replace function settle_webhook_delivery() returns trigger language plpgsql as $$
declare
  verdict text;
begin
  update webhook_delivery d
  set status = 'dispatched', autopilot_run_id = new.id, reason_code = new.reason_code, error = null, last_attempt_at = now(),
    response_status = 200, response_body = coalesce(d.response_body, json_strip_nulls(json_build_object(
      'status', case new.status when 'skipped' then 'skipped' else 'accepted' end,
      'delivery_id', d.id, 'run_id', new.id,
      'autopilot_id', case when new.status <> 'skipped' then d.autopilot_id end,
      'trigger_id', case when new.status <> 'skipped' then d.trigger_id end,
      'reason', case when new.status = 'skipped' then new.failure_reason end))::text)
  where d.id = new.webhook_delivery_id and d.status = 'queued';
  if not found then
    select d.status into verdict from webhook_delivery d where d.id = new.webhook_delivery_id;
    if found then
      raise exception 'the delivery is % already', verdict
        using errcode = 'check_violation', constraint = 'webhook_delivery_decided';
    end if;
  end if;
  return null;
end $$;
