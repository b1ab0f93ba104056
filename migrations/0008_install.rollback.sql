drop index channel_inbound_audit_idx;
create index channel_inbound_audit_idx on channel_inbound_audit (installation_id, received_at desc);
drop table lark_install_session;
