-- The runs of a conversation and of an issue, an agent's conversations, and a workspace's runs are looked up by these:
-- deleting a row, too, looks for what refers to it.
-- depends: 0020_replacing

create index agent_task_chat_session_idx on agent_task (chat_session_id) where chat_session_id is not null;
create index agent_task_issue_idx on agent_task (issue_id) where issue_id is not null;
create index chat_session_agent_idx on chat_session (agent_id);
create index autopilot_run_workspace_idx on autopilot_run (workspace_id, triggered_at desc);
