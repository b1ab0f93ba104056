drop function agent_absence(timestamptz, uuid, timestamptz, timestamptz, double precision);
alter table channel_chat_session_binding drop column absence_told;
drop trigger agent_note_runtime_set on agent;
drop function note_runtime_set();
alter table agent drop column runtime_set_at;
