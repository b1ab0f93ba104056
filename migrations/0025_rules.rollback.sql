create or replace function settle_webhook_delivery() returns trigger language plpgsql as $$
declare
  verdict text;
begin
  update webhook_delivery d
  set status = 'dispatched', autopilot_run_id = new.id, reason_code = new.reason_code, error = null,
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
alter table issue_comment drop constraint issue_comment_system_author_check;
update issue_comment set author_id = null where author_type = 'system';
drop index channel_outbound_card_message_session_idx;
alter table channel_outbound_card_message alter column status drop default;
drop index channel_inbound_audit_reason_idx;
drop index channel_user_binding_account_idx;
alter table channel_installation drop constraint channel_installation_region_check;
