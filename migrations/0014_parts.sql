-- A long answer is several messages, each with a row of its own: its retries, its doubt, its place in the order.
-- depends: 0013_webhook

alter table outbound_message add column part smallint not null default 0;
drop index outbound_message_task_key;
create unique index outbound_message_task_key on outbound_message (task_id, kind, part) where task_id is not null;

-- What is settled is kept for a while, and then taken away oldest first.
create index outbound_message_settled_idx on outbound_message (created_at) where status in ('sent', 'failed', 'unknown');
create index channel_inbound_audit_age_idx on channel_inbound_audit (received_at);
create index outbound_message_workspace_idx on outbound_message (workspace_id, seq desc);
