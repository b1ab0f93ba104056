alter table agent_task drop column stderr_tail;
alter table agent_task drop column reported_attempt;
alter table agent_task drop column forgiven;
alter table agent_task drop column instance;
