-- A scan says whether it may take the place of another app's bot, and on whose word the bot becomes the agent's.
-- depends: 0019_absence

alter table lark_install_session
  -- Whoever began was told which bot is in place, and said that it may go.
  add column replaces boolean not null default false,
  -- An operator began, who answers for the installer; else the installer must manage the agent when the scan ends.
  add column vouched boolean not null default false,
  drop constraint lark_install_session_error_reason_check,
  add constraint lark_install_session_error_reason_check check (error_reason in ('expired', 'access_denied',
    'lark_protocol_error', 'bot_info_failed', 'installation_conflict', 'agent_has_bot', 'forbidden',
    'installer_bind_failed', 'internal_error'));
