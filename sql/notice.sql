-- Messages that the gateway itself sends to a chat.

-- name: queue_notice(id, workspace_id, installation_id, session_id, chat_id, thread_id, message_id, headed, content, uuid)!
-- A message gets one reply, however many transactions try: the key of the notice is derived from the message.
insert into outbound_message (id, workspace_id, installation_id, chat_session_id, kind, recipient_id, thread_id,
  reply_to_message_id, title, content, uuid)
values (:id, :workspace_id, :installation_id, :session_id, 'notice', :chat_id, nullif(:thread_id, ''),
  nullif(:message_id, ''), coalesce((
    select agent.name
    from channel_installation installation join agent on agent.id = installation.agent_id
    where installation.id = :installation_id and :headed
  ), ''), :content, :uuid)
on conflict (uuid) do nothing;

-- name: tell_absences(silent_seconds, recent_seconds, offline_words, archived_words, rows_max)!
-- Conversations whose message was taken in while the agent was there, but whose agent is absent now. They get the same
-- notice as conversations that meet the absence on arrival, and once per absence. Messages that have waited for long
-- are left out: their authors have moved on, and a database that has just learnt of absences must not report all past
-- ones. A conversation that another transaction has locked is told in the next round. The texts are by language. Only
-- in a topic does the notice quote the message.
with untold as (
  select conversation.id, absence.name, agent.name as agent_name, agent.archived_at is not null as archived, installation.workspace_id,
    installation.id as installation_id
  from agent_task task
  join agent on agent.id = task.agent_id
  left join agent_runtime runtime on runtime.id = agent.runtime_id and runtime.workspace_id = agent.workspace_id
  cross join lateral (
    select agent_absence(agent.archived_at, agent.runtime_id, agent.runtime_set_at, runtime.last_heartbeat_at,
      :silent_seconds) as name
  ) absence
  join chat_session session on session.id = task.chat_session_id and session.archived_at is null
  join channel_chat_session_binding conversation on conversation.chat_session_id = session.id
  join channel_installation installation on installation.id = conversation.installation_id
    and installation.status = 'active'
  where task.status = 'queued' and task.kind = 'chat' and task.available_at <= now()
    and task.available_at > now() - make_interval(secs => :recent_seconds)
    and absence.name is not null and conversation.absence_told is distinct from absence.name
  limit :rows_max
  for no key update of conversation skip locked
  for key share of session skip locked
), noted as (
  update channel_chat_session_binding conversation set absence_told = untold.name
  from untold where conversation.id = untold.id
  returning conversation.id, conversation.chat_session_id, conversation.channel_chat_id, conversation.config,
    conversation.last_thread_id, conversation.last_message_id
)
insert into outbound_message (id, workspace_id, installation_id, chat_session_id, kind, recipient_id, thread_id,
  reply_to_message_id, title, content, uuid)
select said.id, untold.workspace_id, untold.installation_id, noted.chat_session_id, 'notice',
  coalesce(nullif(noted.config ->> 'chat_id', ''), noted.channel_chat_id), noted.last_thread_id,
  case when noted.last_thread_id is not null then noted.last_message_id end, untold.agent_name,
  coalesce(said.words ->> workspace.language, said.words ->> 'en'), said.id::text
from untold
join noted on noted.id = untold.id
join workspace on workspace.id = untold.workspace_id
cross join lateral (
  select md5(untold.id::text || untold.name)::uuid as id,
    case when untold.archived then :archived_words::jsonb else :offline_words::jsonb end as words
) said
on conflict (uuid) do nothing;
