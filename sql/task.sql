-- Tasks: what agents work on, from the queue to one answer.

-- name: touch_runtime(runtime_id)!
-- At most one write every 5 s: a runtime with many claims in a row need not rewrite its row for each.
update agent_runtime set last_heartbeat_at = now()
where id = :runtime_id and (last_heartbeat_at is null or last_heartbeat_at < now() - interval '5 seconds');

-- name: register_runtime(runtime_id, name, kind, version)^
-- record_class: RuntimeView
-- The row was made by an operator together with its token; the runtime only describes itself.
update agent_runtime set name = coalesce(:name::text, name), kind = :kind, version = :version, last_heartbeat_at = now()
where id = :runtime_id
returning id, workspace_id, name, kind, version;

-- name: see_tasks(runtime_id, task_ids, attempts)
-- A runtime that names its tasks is held to it: from then on each task must be named again, so that a crashed worker's
-- tasks are found although another worker of the same runtime is alive. An attempt that is over keeps no task alive.
update agent_task task set seen_at = now()
from unnest(:task_ids::uuid[], :attempts::integer[]) as named (id, attempt)
where task.id = named.id and task.attempt = named.attempt and task.runtime_id = :runtime_id
  and task.status in ('dispatched', 'running')
returning task.id, task.attempt;

-- name: claimable_agents(runtime_id)
-- The agents of this runtime that have something to do and room to do it, the most urgent first. Only a guess: the
-- answer counts when it is repeated under the agent's lock. agent.runtime_id is no foreign key, so it may name another
-- workspace's runtime: that one gets nothing. A run waits for the files of its messages, until their deadline.
select agent.id
from agent
cross join lateral (
  select task.priority, task.created_at, task.id
  from agent_task task
  where task.agent_id = agent.id and task.status = 'queued' and task.available_at <= now()
    and not exists (
      select from agent_task active
      where active.agent_id = task.agent_id and active.status in ('dispatched', 'running')
        and (active.chat_session_id = task.chat_session_id or active.issue_id = task.issue_id)
    )
    and not exists (
      select from chat_attachment awaited
      where awaited.chat_session_id = task.chat_session_id and awaited.issue_id is null
        and awaited.status = 'pending' and awaited.deadline_at > now()
    )
    and not exists (
      select from chat_attachment awaited
      where awaited.issue_id = task.issue_id and awaited.status = 'pending' and awaited.deadline_at > now()
    )
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
-- Serialises the claims of one agent: its capacity is counted by the next statement, whose snapshot sees every earlier
-- claim. NO KEY, because messages that arrive meanwhile reference the agent's key and must not wait.
select id from agent where id = :agent_id and runtime_id = :runtime_id and archived_at is null for no key update;

-- name: claim_task(agent_id, runtime_id, instance)$
-- One task of the locked agent. A row that a concurrent message is just extending is skipped: its commit rings again.
with picked as (
  select task.id
  from agent_task task
  join agent on agent.id = task.agent_id
  where task.agent_id = :agent_id and task.status = 'queued' and task.available_at <= now()
    and not exists (
      select from agent_task active
      where active.agent_id = task.agent_id and active.status in ('dispatched', 'running')
        and (active.chat_session_id = task.chat_session_id or active.issue_id = task.issue_id)
    )
    and not exists (
      select from chat_attachment awaited
      where awaited.chat_session_id = task.chat_session_id and awaited.issue_id is null
        and awaited.status = 'pending' and awaited.deadline_at > now()
    )
    and not exists (
      select from chat_attachment awaited
      where awaited.issue_id = task.issue_id and awaited.status = 'pending' and awaited.deadline_at > now()
    )
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
-- What waits in the conversation belongs to this run from now on. Messages of different generations never meet in one
-- run: the oldest generation that is waiting, or that a former attempt took, goes first.
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

-- name: queue_the_rest(id, task_id)
-- Messages that this run could not take (another generation, or too many) get a run of their own.
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
-- The newest message of the run shows that somebody works on it, unless it is old: one that comes again hours later must
-- not. A clock of the platform that is ahead does not make it younger. A second attempt shows it once more, but not
-- while the first one's is still being taken away. Nothing is written where the platform has no such sign.
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
-- record_class: Claim
-- The run has the deadline that the search for lost tasks will hold it to, counted from the hand-out.
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

-- name: get_claimed_run(task_id)^
-- record_class: ClaimedRun
-- What an autopilot's run without an issue is about; the trigger's zone for the time it tells.
select run.id, autopilot.title, autopilot.description, run.source, run.triggered_at,
  coalesce(trigger.timezone, 'UTC') as timezone, run.trigger_payload as payload
from agent_task task
join autopilot_run run on run.id = task.autopilot_run_id
join autopilot on autopilot.id = run.autopilot_id
left join autopilot_trigger trigger on trigger.id = run.trigger_id
where task.id = :task_id;

-- name: list_claimed_messages(task_id)
-- record_class: ClaimedMessage
-- The age is judged by this clock against the platform's, which may run ahead. An issue's run gets the command that it
-- was filed by, if files came with it.
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
-- record_class: Place
-- Where a run's conversation happens, for looking up what was said around it. For a topic the config knows the chat
-- behind the key, which goes on with the topic. A later generation begins with its first message: older words of the
-- same chat are what somebody asked to leave behind.
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
-- Only tasks that wait for their time, or for files, which have a deadline. What waits for room or for another run is
-- rung for when that ends, and so is a run whose files have come.
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
-- record_class: Task
-- For showing it. Who decides on it takes the lock below.
select task.id, task.workspace_id, task.agent_id, task.runtime_id, agent.runtime_id as agent_runtime_id, task.kind,
  task.status, task.chat_session_id, task.issue_id, task.attempt, task.forgiven, task.reported_attempt,
  task.max_attempts, task.progress, task.result, task.error, task.failure_reason, task.stderr_tail, task.available_at,
  task.dispatched_at, task.started_at, task.completed_at, task.created_at, task.undelivered, workspace.language,
  extract(epoch from now() - task.dispatched_at)::double precision as run_seconds, null::text as loss
from agent_task task
join agent on agent.id = task.agent_id
join workspace on workspace.id = task.workspace_id
where task.id = :task_id;

-- name: lock_task(task_id)^
-- record_class: Task
-- Every change of a task's status happens under this lock, so that a second end finds the first. NO KEY, because
-- messages reference the task's key.
select task.id, task.workspace_id, task.agent_id, task.runtime_id, agent.runtime_id as agent_runtime_id, task.kind,
  task.status, task.chat_session_id, task.issue_id, task.attempt, task.forgiven, task.reported_attempt,
  task.max_attempts, task.progress, task.result, task.error, task.failure_reason, task.stderr_tail, task.available_at,
  task.dispatched_at, task.started_at, task.completed_at, task.created_at, task.undelivered, workspace.language,
  extract(epoch from now() - task.dispatched_at)::double precision as run_seconds, null::text as loss
from agent_task task
join agent on agent.id = task.agent_id
join workspace on workspace.id = task.workspace_id
where task.id = :task_id
for no key update of task;

-- name: lock_lost_task(silent_seconds, unstarted_seconds, running_seconds, passed_over)^
-- record_class: Task
-- A claimed task that nobody works on any more. A runtime whose row is gone is silent; a task that its runtime used to
-- name in its heartbeats is judged by that. SKIP LOCKED: what is being changed right now is not lost.
select task.id, task.workspace_id, task.agent_id, task.runtime_id, agent.runtime_id as agent_runtime_id, task.kind,
  task.status, task.chat_session_id, task.issue_id, task.attempt, task.forgiven, task.reported_attempt,
  task.max_attempts, task.progress, task.result, task.error, task.failure_reason, task.stderr_tail, task.available_at,
  task.dispatched_at, task.started_at, task.completed_at, task.created_at, task.undelivered, workspace.language,
  extract(epoch from now() - task.dispatched_at)::double precision as run_seconds, verdict.loss
from agent_task task
join agent on agent.id = task.agent_id
join workspace on workspace.id = task.workspace_id
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
-- record_class: Task
-- The next task that an instance claimed and does not work on: it has been started again. Waits for what is being
-- changed right now, because an end that is rolled back leaves an orphan.
select task.id, task.workspace_id, task.agent_id, task.runtime_id, agent.runtime_id as agent_runtime_id, task.kind,
  task.status, task.chat_session_id, task.issue_id, task.attempt, task.forgiven, task.reported_attempt,
  task.max_attempts, task.progress, task.result, task.error, task.failure_reason, task.stderr_tail, task.available_at,
  task.dispatched_at, task.started_at, task.completed_at, task.created_at, task.undelivered, workspace.language,
  extract(epoch from now() - task.dispatched_at)::double precision as run_seconds,
  case task.status when 'running' then 'restarted' else 'undelivered' end as loss
from agent_task task
join agent on agent.id = task.agent_id
join workspace on workspace.id = task.workspace_id
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
-- From here on the run may have had effects: losing it counts against the tries.
update agent_task set status = 'running', started_at = now(), undelivered = 0
where id = :task_id and attempt = :attempt and status = 'dispatched';

-- name: record_progress(task_id, attempt, progress)!
-- Shown while it runs; the next attempt starts without.
update agent_task set progress = :progress where id = :task_id and attempt = :attempt and status = 'running';

-- name: finish_task(task_id, attempt, status, result, error, failure_reason, stderr_tail)!
-- What has ended stays as it ended, and no attempt ends another one.
update agent_task
set status = :status, result = :result::jsonb, error = :error, failure_reason = :failure_reason,
  stderr_tail = :stderr_tail, completed_at = now()
where id = :task_id and attempt = :attempt and status in ('queued', 'dispatched', 'running');

-- name: lock_waiting_sibling(task_id)$
-- The run that already waits where this one would have to wait; locked, so that it still does when it gets the messages.
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
-- The sibling inherits what was tried in vain with the messages it gets. Else a conversation in which a run always waits
-- (more messages than one run takes, or somebody who keeps writing) would be tried again for ever. Compared are the
-- tries that count; the sibling's own number only grows.
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
-- Back to waiting: the conversation's next claim takes them.
update chat_message set task_id = null where task_id = :task_id and role = 'user';

-- name: note_undelivered(task_id, attempt, undelivered)!
-- Counted over claims in a row: the one that is started ends the row.
update agent_task set undelivered = :undelivered
where id = :task_id and attempt = :attempt and status in ('dispatched', 'running');

-- name: requeue_task(task_id, attempt, forgiven, reported, delay_seconds, error, failure_reason, stderr_tail)!
-- The next claim is another attempt, also after one that was never started: the old number is worth nothing any more.
-- A second attempt goes before first ones: somebody has been waiting for it.
update agent_task
set status = 'queued', runtime_id = null, instance = null, dispatched_at = null, started_at = null, seen_at = null,
  progress = null, attempt = attempt + 1, forgiven = forgiven + case when :forgiven then 1 else 0 end,
  reported_attempt = case when :reported then attempt end, priority = greatest(priority, 3),
  available_at = now() + make_interval(secs => :delay_seconds), error = :error, failure_reason = :failure_reason,
  stderr_tail = :stderr_tail
where id = :task_id and attempt = :attempt and status in ('dispatched', 'running');

-- name: append_answer(id, task_id, content)!
-- In the generation of the run, which may be older than the conversation's by now.
with task as (
  select id, chat_session_id, context_generation from agent_task where id = :task_id
), touched as (
  update chat_session set updated_at = now() from task where chat_session.id = task.chat_session_id
)
insert into chat_message (id, chat_session_id, role, content, task_id, context_generation)
select :id, chat_session_id, 'assistant', :content, task.id, context_generation from task;

-- name: append_comment(id, task_id, author_type, kind, body)!
-- On the issue that the run was for. The gateway itself is nobody in particular.
insert into issue_comment (id, workspace_id, issue_id, author_type, author_id, kind, body)
select :id, task.workspace_id, task.issue_id, :author_type, case when :author_type = 'agent' then task.agent_id end,
  :kind, :body
from agent_task task
where task.id = :task_id and task.issue_id is not null;

-- name: get_reply_channel(task_id)$
-- The platform that the task's conversation lives on; none while its bot is not connected.
select installation.channel_type
from agent_task task
join channel_chat_session_binding conversation on conversation.chat_session_id = task.chat_session_id
join channel_installation installation on installation.id = conversation.installation_id
where task.id = :task_id and installation.status = 'active';

-- name: queue_reply(task_id, kind, ids, contents)!
-- To the chat that the session is bound to, while its bot is connected. For a topic the config knows the chat behind
-- the key. Only a topic is answered by quoting, because quoting is what keeps the answer inside it. A row's id is its
-- idempotency key as well. The parts of an answer are numbered in the order in which they are written and sent.
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

-- name: announce_event(payload)^
-- Delivered with the commit, in the order of these calls.
select pg_notify('gateway_event', :payload);

-- name: ring_runtime(agent_id)^
-- An agent without a runtime has nobody to tell.
select pg_notify('gateway_task', runtime_id::text) from agent where id = :agent_id and runtime_id is not null;
