drop index autopilot_run_workspace_idx;
drop index chat_session_agent_idx;
drop index agent_task_issue_idx;
drop index agent_task_chat_session_idx;
