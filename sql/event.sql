-- Events: what live listeners and waiting requests are told of when a transaction commits.

-- name: announce_event(payload)!
-- Listeners are notified at the commit, in the order of these calls.
select pg_notify('gateway_event', :payload);

-- name: ring_runtime(agent_id)!
-- Nothing is sent for an agent without a runtime.
select pg_notify('gateway_task', runtime_id::text) from agent where id = :agent_id and runtime_id is not null;
