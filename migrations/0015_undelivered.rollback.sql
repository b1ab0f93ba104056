alter table agent_task drop column undelivered;
