drop trigger agent_task_delete_typing on agent_task;
drop trigger agent_task_end_typing on agent_task;
drop function end_typing();
drop table channel_typing;
