-- The earlier layout has no words of its own for the two new ends.
update lark_install_session set error_reason = 'installation_conflict' where error_reason in ('agent_has_bot', 'forbidden');
alter table lark_install_session
  drop constraint lark_install_session_error_reason_check,
  add constraint lark_install_session_error_reason_check check (error_reason in ('expired', 'access_denied',
    'lark_protocol_error', 'bot_info_failed', 'installation_conflict', 'installer_bind_failed', 'internal_error')),
  drop column vouched,
  drop column replaces;
