-- Deliveries that wait for their turn, and the announcement of new addresses.
-- depends: 0016_degraded

-- The place of a delivery in the queue of its trigger; null for one that never waits. From a sequence, because those that
-- are written together have one time.
create sequence webhook_delivery_turn;
alter table webhook_delivery add column turn bigint;
create index webhook_delivery_turn_idx on webhook_delivery (trigger_id, turn) where status = 'queued' and turn is not null;

-- As before, but what its sender was answered when it began to wait stays in the log.
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

-- Every process knows which addresses may exist, so that it can turn guesses away without asking. The announcement holds the
-- beginning of the token's digest: enough to know it by, and no help in guessing it.
create function announce_webhook_token() returns trigger language plpgsql as $$
begin
  perform pg_notify('gateway_webhook',
    encode(substring(sha256(convert_to(new.webhook_token, 'UTF8')) for 8), 'hex'));
  return null;
end $$;
create trigger autopilot_trigger_announce_token after insert or update of webhook_token on autopilot_trigger
  for each row when (new.kind = 'webhook' and new.webhook_token is not null)
  execute function announce_webhook_token();
