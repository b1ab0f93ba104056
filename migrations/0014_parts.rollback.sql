drop index outbound_message_workspace_idx;
drop index channel_inbound_audit_age_idx;
drop index outbound_message_settled_idx;
drop index outbound_message_task_key;
delete from outbound_message where part > 0;
create unique index outbound_message_task_key on outbound_message (task_id, kind) where task_id is not null;
alter table outbound_message drop column part;
