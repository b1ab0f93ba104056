-- Tasks: the units of work of agents, from the queue to one answer.

-- name: touch_runtime(runtime_id)!
-- Writes at most once every 5 s, so that a runtime with many claims in a row does not rewrite its row for each.
update agent_runtime set last_heartbeat_at = now()
where id = :runtime_id and (last_heartbeat_at is null or last_heartbeat_at < now() - interval '5 seconds');

-- name: register_runtime(runtime_id, name, kind, version)^
-- An operator created the row together with its token. The runtime only describes itself.
update agent_runtime set name = coalesce(:name::text, name), kind = :kind, version = :version, last_heartbeat_at = now()
where id = :runtime_id
returning id, workspace_id, name, kind, version;

-- name: see_tasks(runtime_id, task_ids, attempts)
-- Notes the tasks that a runtime names in its heartbeat. Once named, a task must be named again and again, or it counts
-- as lost. This finds the tasks of a crashed worker although another worker of the same runtime is alive. Naming an
-- attempt that is over keeps no task alive.
update agent_task task set seen_at = now()
from unnest(:task_ids::uuid[], :attempts::integer[]) as named (id, attempt)
where task.id = named.id and task.attempt = named.attempt and task.runtime_id = :runtime_id
  and task.status in ('dispatched', 'running')
returning task.id, task.attempt;

-- name: claimable_agents(runtime_id)
-- The agents of this runtime that have a task to claim and capacity for it, the most urgent first. This is only a
-- guess, read without locks: claim_task repeats the check under the agent's lock. agent.runtime_id is not a foreign
-- key, so it may name another workspace's runtime, which gets nothing.
select agent.id
from agent
cross join lateral (
  select task.priority, task.created_at, task.id
  from agent_task task
  cross join lateral unobstructed(task.agent_id, task.chat_session_id, task.issue_id)
  where task.agent_id = agent.id and task.status = 'queued' and task.available_at <= now()
  order by task.priority desc, task.created_at, task.id
  limit 1
) best
join agent_runtime runtime on runtime.id = agent.runtime_id and runtime.workspace_id = agent.workspace_id
where agent.runtime_id = :runtime_id and agent.archived_at is null
  and agent.max_concurrent_tasks > (
    select count(*) from agent_task active
    where active.agent_id = agent.id and active.status in ('dispatched', 'running')
  )
order by best.priority desc, best.created_at, best.id
limit 8;

-- name: lock_agent(agent_id, runtime_id)$
-- Serialises the claims of one agent. The next statement counts the agent's capacity. It must be a statement of its
-- own, so that its snapshot is taken under this lock and sees every earlier claim. NO KEY, because rows that are
-- inserted meanwhile for arriving messages reference the agent's key, and must not wait.
select id from agent where id = :agent_id and runtime_id = :runtime_id and archived_at is null for no key update;

-- name: claim_task(agent_id, runtime_id, instance)$
-- Claims one task of the locked agent. A queued row that a concurrent message is just moving is skipped. Nothing is
-- lost by that, because the runtime is notified again when that message commits.
with picked as (
  select task.id
  from agent_task task
  join agent on agent.id = task.agent_id
  cross join lateral unobstructed(task.agent_id, task.chat_session_id, task.issue_id)
  where task.agent_id = :agent_id and task.status = 'queued' and task.available_at <= now()
    and agent.max_concurrent_tasks > (
      select count(*) from agent_task active
      where active.agent_id = task.agent_id and active.status in ('dispatched', 'running')
    )
  order by task.priority desc, task.created_at, task.id
  limit 1
  for no key update of task skip locked
)
update agent_task task
set status = 'dispatched', runtime_id = :runtime_id, instance = :instance, dispatched_at = now(), started_at = null,
  seen_at = null, progress = null
from picked
where task.id = picked.id
returning task.id;

-- name: take_messages(task_id, messages_max)!
-- Assigns the waiting messages of the conversation to this run. A run never gets messages of different generations. The
-- oldest generation among the waiting messages and those of a former attempt goes first.
with conversation as (
  select task.id as task_id, task.chat_session_id, min(message.context_generation) as generation
  from agent_task task
  join chat_message message on message.chat_session_id = task.chat_session_id
    and (message.task_id is null or message.task_id = task.id)
    and message.role = 'user' and message.kind = 'text'
  where task.id = :task_id
  group by task.id, task.chat_session_id
), generation as (
  update agent_task task set context_generation = conversation.generation
  from conversation where task.id = conversation.task_id
), waiting as (
  select message.id
  from chat_message message
  join conversation on conversation.chat_session_id = message.chat_session_id
    and conversation.generation = message.context_generation
  where message.task_id is null and message.role = 'user' and message.kind = 'text'
  order by message.seq
  limit :messages_max
)
update chat_message message set task_id = :task_id from waiting where message.id = waiting.id;

-- name: queue_the_rest(id, task_id)!
-- Queues another run for the messages that this run could not take, because they are of another generation or too many.
with queued as (
  insert into agent_task
    (id, workspace_id, agent_id, kind, priority, chat_session_id, initiator_user_id, context_generation, max_attempts)
  select :id, task.workspace_id, task.agent_id, task.kind, task.priority, task.chat_session_id, task.initiator_user_id,
    task.context_generation, task.max_attempts
  from agent_task task
  where task.id = :task_id and task.kind = 'chat' and exists (
    select from chat_message message
    where message.chat_session_id = task.chat_session_id and message.task_id is null and message.role = 'user'
      and message.kind = 'text'
  )
  on conflict (chat_session_id) where status = 'queued' and kind = 'chat' do nothing
  returning id, workspace_id, agent_id, chat_session_id
)
select pg_notify('gateway_event', json_build_object('event', 'task:queued', 'workspace_id', workspace_id, 'task_id', id,
  'agent_id', agent_id, 'issue_id', null, 'chat_session_id', chat_session_id, 'status', 'queued')::text)
from queued;

-- name: want_typing(id, task_id, fresh_seconds, channel_types)!
-- Asks for the typing sign on the newest message of the run. An old message gets none, because a message may be
-- delivered again hours later. A platform clock that runs ahead does not make a message younger. A second attempt shows
-- the sign again, but not while the sign of the first attempt is still being removed. Nothing is written for a platform
-- that has no such sign.
insert into channel_typing (id, workspace_id, installation_id, task_id, channel_message_id, show_before)
select :id, installation.workspace_id, installation.id, newest.task_id, newest.channel_message_id,
  newest.said_at + make_interval(secs => :fresh_seconds)
from (
  select message.task_id, message.chat_session_id, message.channel_message_id,
    least(coalesce(message.sent_at, message.created_at), now()) as said_at
  from chat_message message
  where message.task_id = :task_id and message.role = 'user'
  order by message.seq desc
  limit 1
) newest
join channel_chat_session_binding conversation on conversation.chat_session_id = newest.chat_session_id
join channel_installation installation on installation.id = conversation.installation_id
where installation.status = 'active' and newest.channel_message_id <> ''
  and (:channel_types::text[] is null or installation.channel_type = any(:channel_types::text[]))
  and newest.said_at > now() - make_interval(secs => :fresh_seconds)
on conflict (task_id, channel_message_id) do update
set status = 'wanted', reaction_id = null, attempts = 0, available_at = now(), show_before = excluded.show_before,
  updated_at = now()
where channel_typing.status in ('gone', 'failed');

-- name: get_claim(task_id, running_seconds)^
-- The deadline of the run is counted from this hand-out. After it, the search for lost tasks gives the run up.
select task.id, task.kind, task.workspace_id, task.agent_id, agent.name as agent_name, task.chat_session_id,
  task.issue_id, workspace.issue_prefix || '-' || issue.number as issue_key, issue.title as issue_title,
  issue.description as issue_description, issue.status as issue_status, task.attempt,
  case when task.kind = 'chat' then task.context_generation end as context_generation,
  task.dispatched_at + make_interval(secs => :running_seconds) as deadline
from agent_task task
join agent on agent.id = task.agent_id
join workspace on workspace.id = task.workspace_id
left join issue on issue.id = task.issue_id and issue.workspace_id = task.workspace_id
where task.id = :task_id;

-- name: get_claimed_run(task_id, payload_chars)^
-- The content of an autopilot's run without an issue. The time zone is the trigger's, and the run's time is shown in
-- it. A payload may have megabytes, of which an agent is shown the beginning.
select run.id, autopilot.title, autopilot.description, run.source, run.triggered_at,
  coalesce(trigger.timezone, 'UTC') as timezone, run.trigger_payload ->> 'event' as event,
  left(coalesce(run.trigger_payload -> 'eventPayload', run.trigger_payload)::text, :payload_chars) as payload
from agent_task task
join autopilot_run run on run.id = task.autopilot_run_id
join autopilot on autopilot.id = run.autopilot_id
left join autopilot_trigger trigger on trigger.id = run.trigger_id
where task.id = :task_id;

-- name: list_claimed_messages(task_id)
-- The age compares the database's clock with the platform's, which may run ahead. An issue's run gets the command that
-- filed the issue, if files came with that command.
with own as (
  select id from chat_message where task_id = :task_id
  union
  select attachment.chat_message_id
  from agent_task task join chat_attachment attachment on attachment.issue_id = task.issue_id
  where task.id = :task_id
)
select message.id as row_id, message.role, coalesce(nullif(author.name, ''), split_part(author.email, '@', 1), '') as author,
  message.content as text, coalesce(message.sent_at, message.created_at) as sent_at,
  greatest(0, extract(epoch from now() - coalesce(message.sent_at, message.created_at)))::bigint as age_seconds,
  coalesce(message.channel_message_id, '') as message_id, coalesce(message.quoted_message_id, '') as quoted_id,
  message.bundle
from own
join chat_message message on message.id = own.id and message.role = 'user'
left join app_user author on author.id = message.author_user_id
order by message.seq;

-- name: get_place(task_id)^
-- The place of a run's conversation, for looking up the messages around it. The key of a topic is the chat's id
-- followed by the topic's id, and the config holds the chat's id. A later generation begins with its first message
-- (since_id). Older messages of the chat must not be looked up, because a person asked to leave them behind.
select conversation.installation_id, conversation.channel_type, known.chat_id,
  substr(conversation.channel_chat_id, length(known.chat_id) + 2) as thread_id,
  conversation.chat_type = 'group' as is_group, started.since_id, started.since
from agent_task task
join channel_chat_session_binding conversation on conversation.chat_session_id = task.chat_session_id
cross join lateral (
  select coalesce(nullif(conversation.config ->> 'chat_id', ''), conversation.channel_chat_id) as chat_id
) known
left join lateral (
  select message.channel_message_id as since_id, coalesce(message.sent_at, message.created_at) as since
  from chat_message message
  where message.chat_session_id = task.chat_session_id and message.context_generation = task.context_generation
  order by message.seq
  limit 1
) started on task.context_generation > 0
where task.id = :task_id and task.kind = 'chat';

-- name: seconds_to_next(runtime_id)$
-- Counts only tasks that wait for their start time, or for files, which have a deadline. The runtime is notified of all
-- others: when capacity becomes free, when another run of the conversation ends, or when the files have arrived.
select extract(epoch from min(greatest(task.available_at, files.deadline_at)) - clock_timestamp())::double precision
from agent
join agent_task task on task.agent_id = agent.id
cross join lateral (
  select max(awaited.deadline_at) as deadline_at
  from (
    select deadline_at from chat_attachment
    where chat_session_id = task.chat_session_id and issue_id is null and status = 'pending' and deadline_at > now()
    union all
    select deadline_at from chat_attachment
    where issue_id = task.issue_id and status = 'pending' and deadline_at > now()
  ) awaited
) files
where agent.runtime_id = :runtime_id and agent.archived_at is null and task.status = 'queued'
  and (task.available_at > now() or files.deadline_at is not null);

-- name: get_task(task_id)^
-- For display only. A decision about the task must use lock_task.
select detail.*, null::text as loss
from agent_task task
cross join lateral task_detail(task) detail
where task.id = :task_id;

-- name: lock_task(task_id)^
-- Every change of a task's status happens under this lock, so that a second report of an end sees the first one. NO
-- KEY, because messages reference the task's key.
select detail.*, null::text as loss
from agent_task task
cross join lateral task_detail(task) detail
where task.id = :task_id
for no key update of task;

-- name: lock_lost_task(silent_seconds, unstarted_seconds, running_seconds, passed_over)^
-- Locks a claimed task that no runtime works on any more. A runtime whose row is gone counts as silent. A task that was
-- named in heartbeats (seen_at) must still be named: the older of the two times decides. SKIP LOCKED, because a task
-- that is being changed right now is not lost.
select detail.*, verdict.loss
from agent_task task
cross join lateral task_detail(task) detail
left join agent_runtime runtime on runtime.id = task.runtime_id
cross join lateral (
  select case
    when task.status = 'running' and task.started_at < now() - make_interval(secs => :running_seconds) then 'timeout'
    when coalesce(least(runtime.last_heartbeat_at, task.seen_at), '-infinity')
      < now() - make_interval(secs => :silent_seconds)
      then case task.status when 'running' then 'runtime_offline' else 'undelivered' end
    when task.status = 'dispatched' and task.dispatched_at < now() - make_interval(secs => :unstarted_seconds)
      then 'undelivered'
  end as loss
) verdict
where task.status in ('dispatched', 'running') and verdict.loss is not null and task.id <> all(:passed_over::uuid[])
order by task.dispatched_at, task.id
limit 1
for no key update of task skip locked;

-- name: lock_orphaned_task(runtime_id, instance, kept_ids, kept_attempts, passed_over)^
-- Locks the next task that an instance claimed and no longer works on, because the instance has been started again. It
-- waits for tasks that are being changed right now: if that change is rolled back, the task is an orphan after all.
select detail.*, case task.status when 'running' then 'restarted' else 'undelivered' end as loss
from agent_task task
cross join lateral task_detail(task) detail
where task.runtime_id = :runtime_id and task.instance = :instance and task.status in ('dispatched', 'running')
  and not exists (
    select from unnest(:kept_ids::uuid[], :kept_attempts::integer[]) as kept (id, attempt)
    where kept.id = task.id and kept.attempt = task.attempt
  )
  and task.id <> all(:passed_over::uuid[])
order by task.dispatched_at, task.id
limit 1
for no key update of task;

-- name: start_task(task_id, attempt)!
-- A started run may have had effects, so losing it counts as a try.
update agent_task set status = 'running', started_at = now(), undelivered = 0
where id = :task_id and attempt = :attempt and status = 'dispatched';

-- name: record_progress(task_id, attempt, progress)!
-- The progress is shown while the task runs. The next attempt starts without it.
update agent_task set progress = :progress where id = :task_id and attempt = :attempt and status = 'running';

-- name: finish_task(task_id, attempt, status, result, error, failure_reason, stderr_tail)!
-- A task that has ended stays as it is, and an attempt cannot end another attempt.
update agent_task
set status = :status, result = :result::jsonb, error = :error, failure_reason = :failure_reason,
  stderr_tail = :stderr_tail, completed_at = now()
where id = :task_id and attempt = :attempt and status in ('queued', 'dispatched', 'running');

-- name: lock_waiting_sibling(task_id)$
-- Finds the run that already waits for the same conversation. It is locked, so that it still waits when it gets the
-- messages.
select sibling.id
from agent_task task
join agent_task sibling on sibling.id <> task.id and sibling.kind = task.kind
  and sibling.status in ('queued', 'dispatched')
where task.id = :task_id and (
  (task.kind = 'chat' and sibling.chat_session_id = task.chat_session_id and sibling.status = 'queued')
  or (task.kind = 'issue' and sibling.issue_id = task.issue_id and sibling.agent_id = task.agent_id)
)
limit 1
for no key update of sibling;

-- name: pass_attempt_on(sibling_id, task_id, forgiven)!
-- The waiting run (the sibling) gets the messages of this run, and inherits the tries that failed with them. Otherwise
-- a conversation in which a run always waits would be tried again for ever. A run always waits when there are more
-- messages than one run takes, or when a person keeps writing. The tries that count are compared (attempt minus
-- forgiven). The sibling's attempt number only grows.
update agent_task sibling
set attempt = sibling.forgiven + greatest(
    sibling.attempt - sibling.forgiven,
    task.attempt - task.forgiven + case when :forgiven then 0 else 1 end
  ),
  priority = greatest(sibling.priority, 3),
  undelivered = greatest(sibling.undelivered, task.undelivered)
from agent_task task
where sibling.id = :sibling_id and sibling.status = 'queued' and task.id = :task_id;

-- name: release_messages(task_id)!
-- The messages wait again. The conversation's next claim takes them.
update chat_message set task_id = null where task_id = :task_id and role = 'user';

-- name: note_undelivered(task_id, attempt, undelivered)!
-- The number of claims in a row that were not started. Starting the task resets it.
update agent_task set undelivered = :undelivered
where id = :task_id and attempt = :attempt and status in ('dispatched', 'running');

-- name: requeue_task(task_id, attempt, forgiven, reported, delay_seconds, error, failure_reason, stderr_tail)!
-- The next claim is another attempt, even after one that was never started, so that late reports under the old number
-- are refused. A second attempt goes before first attempts, because a person has been waiting for it.
update agent_task
set status = 'queued', runtime_id = null, instance = null, dispatched_at = null, started_at = null, seen_at = null,
  progress = null, attempt = attempt + 1, forgiven = forgiven + case when :forgiven then 1 else 0 end,
  reported_attempt = case when :reported then attempt end, priority = greatest(priority, 3),
  available_at = now() + make_interval(secs => :delay_seconds), error = :error, failure_reason = :failure_reason,
  stderr_tail = :stderr_tail
where id = :task_id and attempt = :attempt and status in ('dispatched', 'running');

-- name: append_answer(id, task_id, content)!
-- The answer belongs to the generation of the run, which may be older than the conversation's present one.
with task as (
  select id, chat_session_id, context_generation from agent_task where id = :task_id
), touched as (
  update chat_session set updated_at = now() from task where chat_session.id = task.chat_session_id
)
insert into chat_message (id, chat_session_id, role, content, task_id, context_generation)
select :id, chat_session_id, 'assistant', :content, task.id, context_generation from task;

-- name: append_comment(id, task_id, author_type, kind, body)!
-- Adds a comment to the run's issue. The author of the gateway's own comments is the zero UUID, which no row has as id.
insert into issue_comment (id, workspace_id, issue_id, author_type, author_id, kind, body)
select :id, task.workspace_id, task.issue_id, :author_type,
  case when :author_type = 'agent' then task.agent_id else '00000000-0000-0000-0000-000000000000' end, :kind, :body
from agent_task task
where task.id = :task_id and task.issue_id is not null;

-- name: get_reply_channel(task_id)$
-- The platform of the task's conversation. No row while its bot is not active.
select installation.channel_type
from agent_task task
join channel_chat_session_binding conversation on conversation.chat_session_id = task.chat_session_id
join channel_installation installation on installation.id = conversation.installation_id
where task.id = :task_id and installation.status = 'active';

-- name: queue_reply(task_id, kind, ids, contents)!
-- Writes the rows to the outbox for the chat that the session is bound to, if its bot is active. For a topic the config
-- holds the chat's id. Only an answer in a topic quotes a message, because the quote keeps the answer inside the topic.
-- A row's id is its idempotency key as well. The parts of an answer are numbered in the order in which they are written
-- and sent.
insert into outbound_message
  (id, workspace_id, installation_id, chat_session_id, task_id, kind, part, recipient_id, thread_id,
   reply_to_message_id, content, uuid)
select piece.id, installation.workspace_id, installation.id, conversation.chat_session_id, task.id, :kind,
  piece.ordinal - 1, coalesce(nullif(conversation.config ->> 'chat_id', ''), conversation.channel_chat_id),
  conversation.last_thread_id, case when conversation.last_thread_id is not null then conversation.last_message_id end,
  piece.content, piece.id::text
from agent_task task
join channel_chat_session_binding conversation on conversation.chat_session_id = task.chat_session_id
join channel_installation installation on installation.id = conversation.installation_id
cross join unnest(:ids::uuid[], :contents::text[]) with ordinality as piece (id, content, ordinal)
where task.id = :task_id and installation.status = 'active'
order by piece.ordinal
on conflict (task_id, kind, part) where task_id is not null do nothing;
