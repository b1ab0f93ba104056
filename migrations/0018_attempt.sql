-- A claim has an identity: the task and its attempt, a number that is never handed out twice.
-- depends: 0017_hooks

-- The worker that made the claim, by the name that it keeps when it is started again. Null: it did not say, or the task
-- waits. Without an index: only few rows of one runtime are claimed at a time.
alter table agent_task add column instance text;
-- Attempts that were handed out and never started. They count as attempts, but not against max_attempts.
alter table agent_task add column forgiven integer not null default 0;
-- The last attempt, while the task waits because its own worker ended it: the same report again changes nothing.
alter table agent_task add column reported_attempt integer;
-- The end of what the program of the last ended attempt wrote to stderr: its own words, shown to people only.
alter table agent_task add column stderr_tail text check (octet_length(stderr_tail) <= 4096);
