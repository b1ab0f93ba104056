-- Claims in a row that came to nothing before they were started: what nobody hears of is not handed out for ever.
-- depends: 0014_parts

alter table agent_task add column undelivered integer not null default 0;
