-- The inbound path: the sender of a message, the claim that makes it exist once, and the rows that it becomes.
--
-- Several statements notify listeners in a WITH part that only selects pg_notify (told, announced). Postgres runs such
-- a part only if the main query reads it. So the main query has a condition like "(select count(*) from told) >= 0",
-- which is always true.

-- name: get_installation_by_app(channel_type, app_id)^
-- The look-up uses the functional unique index. allow_bots is a JSON boolean that older rows do not have.
select id, workspace_id, agent_id, installer_user_id, status = 'revoked' as revoked,
  coalesce(config -> 'allow_bots' = 'true'::jsonb, false) as allow_bots,
  coalesce((select language from workspace where workspace.id = channel_installation.workspace_id), 'en') as language
from channel_installation
where channel_type = :channel_type and config ->> 'app_id' = :app_id;

-- name: claim_inbound_dedup(installation_id, message_id, token, stale_seconds)$
-- The first delivery inserts the claim. A later one takes over a claim that was left in flight. Every claim gets a
-- new token, so that the holder of the old token can no longer finish anything. No row means that the claim is another
-- worker's, or already processed.
insert into channel_inbound_message_dedup (installation_id, message_id, claim_token)
values (:installation_id, :message_id, :token)
on conflict (installation_id, message_id) do update
  set claim_token = excluded.claim_token, received_at = now()
  where channel_inbound_message_dedup.processed_at is null
    and channel_inbound_message_dedup.received_at < now() - make_interval(secs => :stale_seconds)
returning claim_token;

-- name: get_inbound_claim(installation_id, message_id)^
-- This is a statement of its own because the row of a concurrent winner would not be visible inside the claiming
-- statement.
select claim_token as token, received_at, processed_at
from channel_inbound_message_dedup
where installation_id = :installation_id and message_id = :message_id;

-- name: mark_inbound_processed(installation_id, message_id, token)!
-- Zero rows mean that the claim was lost. The transaction that this statement belongs to must not commit then.
update channel_inbound_message_dedup set processed_at = now()
where installation_id = :installation_id and message_id = :message_id and claim_token = :token and processed_at is null;

-- name: release_inbound_claim(installation_id, message_id, token)!
-- Fenced like the mark: a claim that is processed, or that another worker holds, stays.
delete from channel_inbound_message_dedup
where installation_id = :installation_id and message_id = :message_id and claim_token = :token and processed_at is null;

-- name: record_inbound_drop(installation_id, channel_type, chat_id, event_type, event_id, message_id, reason, token, asked, prompt_id, prompt_seconds)$
-- The audit row, the mark and the question to bind are one statement, so a crash cannot leave one without the others.
-- Without a token there is no claim to mark. With a lost claim nothing is written, because the new holder writes the
-- audit row. A sender is asked at most once in `prompt_seconds`, and never while the last question still waits to be
-- sent. The row of channel_binding_prompt decides between two processes that would ask at the same moment.
-- Returns the number of audit rows written.
with marked as (
  update channel_inbound_message_dedup set processed_at = now()
  where installation_id = :installation_id and message_id = :message_id and claim_token = :token and processed_at is null
  returning claim_token
), audited as (
  insert into channel_inbound_audit
    (installation_id, channel_type, channel_chat_id, event_type, channel_event_id, channel_message_id, drop_reason)
  select :installation_id, :channel_type, :chat_id, :event_type, :event_id, :message_id, :reason
  where :token::uuid is null or exists (select from marked)
  returning id
), prompted as (
  insert into channel_binding_prompt as last (installation_id, channel_user_id)
  select :installation_id::uuid, :asked::text
  from audited
  where :asked::text is not null
    and not exists (
      select from outbound_message waiting
      where waiting.installation_id = :installation_id and waiting.status in ('queued', 'sending')
        and waiting.kind = 'binding_prompt' and waiting.recipient_id = :asked::text
    )
  on conflict (installation_id, channel_user_id) do update set prompted_at = now()
    where last.prompted_at <= now() - make_interval(secs => :prompt_seconds)
  returning installation_id, channel_user_id
), asked as (
  insert into outbound_message (id, workspace_id, installation_id, kind, recipient_type, recipient_id, uuid)
  select :prompt_id::uuid, installation.workspace_id, installation.id, 'binding_prompt', 'user',
    prompted.channel_user_id, :prompt_id::text
  from prompted
  join channel_installation installation on installation.id = prompted.installation_id
)
select count(*) from audited;

-- name: is_own_message(installation_id, message_id)$
-- Looks at ids alone. Card messages have no installation of their own: theirs is the one of their conversation.
select exists (
    select from outbound_message sent
    where sent.installation_id = :installation_id and sent.channel_message_id = :message_id::text
  ) or exists (
    select from channel_outbound_card_message card
    join channel_chat_session_binding conversation on conversation.chat_session_id = card.chat_session_id
    where card.channel_card_message_id = :message_id::text and conversation.installation_id = :installation_id
  );

-- name: get_user_binding(installation_id, workspace_id, sender_id)^
-- Membership is read at this moment, because a binding may outlive it.
select person.user_id,
  exists (select from member where member.workspace_id = :workspace_id and member.user_id = person.user_id) as is_member
from channel_user_binding person
where person.installation_id = :installation_id and person.channel_user_id = :sender_id;

-- name: get_chat_session_binding(installation_id, session_key)$
-- Joined with the session, because a binding whose session is gone does not count.
select session.id
from channel_chat_session_binding conversation
join chat_session session on session.id = conversation.chat_session_id
where conversation.installation_id = :installation_id and conversation.channel_chat_id = :session_key;

-- name: create_chat_session_binding(binding_id, session_id, workspace_id, agent_id, installation_id, channel_type, session_key, chat_type, config, creator_id, title)$
-- Creates binding and session in one statement. The loser of a race leaves no orphan session, gets no row, and reads
-- the winner's row. A creator whose account is gone is stored as null.
with conversation as (
  insert into channel_chat_session_binding
    (id, workspace_id, chat_session_id, installation_id, channel_type, channel_chat_id, chat_type, config)
  values (:binding_id, :workspace_id, :session_id, :installation_id, :channel_type, :session_key, :chat_type, :config::jsonb)
  on conflict (installation_id, channel_chat_id) do nothing
  returning chat_session_id
)
insert into chat_session (id, workspace_id, agent_id, creator_id, title)
select chat_session_id, :workspace_id, :agent_id, (select id from app_user where id = :creator_id), :title
from conversation
returning id;

-- name: delete_orphaned_chat_session_binding(installation_id, session_key)!
-- A binding whose session was deleted blocks its conversation, so it is removed. This is a statement of its own,
-- because only a snapshot that sees the binding is certain to see the session that was created with it. Inside the
-- conflict of create_chat_session_binding, the binding of a race's winner would look like an orphan.
delete from channel_chat_session_binding binding
where binding.installation_id = :installation_id and binding.channel_chat_id = :session_key
  and not exists (select from chat_session where chat_session.id = binding.chat_session_id);

-- name: lock_chat_session(session_id)$
-- Serialises the appends to one conversation, and fixes the generation that the message belongs to.
select context_generation from chat_session where id = :session_id for no key update;

-- name: advance_context(session_id)$
-- Begins a new generation. Messages of earlier generations are no longer part of the context. Locks like
-- lock_chat_session.
update chat_session set context_generation = context_generation + 1, updated_at = now()
where id = :session_id
returning context_generation;

-- name: append_user_message(id, session_id, author_id, kind, content, context_generation, sent_at, message_id, quoted_id, bundle)!
-- The session moves to the top of the session lists in the same statement, and live listeners are told of the message.
-- No run consumes a message of kind channel_command.
with touched as (
  update chat_session set updated_at = now() where id = :session_id
  returning workspace_id
), told as (
  select pg_notify('gateway_event', json_build_object('event', 'chat:message', 'workspace_id', workspace_id,
    'chat_session_id', :session_id::uuid, 'message_id', :id::uuid)::text)
  from touched
)
insert into chat_message
  (id, chat_session_id, role, kind, content, author_user_id, context_generation, sent_at, channel_message_id,
   quoted_message_id, bundle)
select :id, :session_id, 'user', :kind, :content, :author_id, :context_generation, :sent_at::timestamptz,
  nullif(:message_id, ''), nullif(:quoted_id, ''), :bundle
where (select count(*) from told) >= 0;

-- name: attach_media(ids, message_id, session_id, channel_message_id, kinds, channel_keys, names, awaited, fetch_seconds)!
-- Writes one pending row for each file, in the transaction of its message. The fetchers are notified at the commit, and
-- a run waits for the files until their deadline. Files of a command are not fetched until the command is carried out.
with told as (
  select pg_notify('gateway_attachment', '') where :awaited
)
insert into chat_attachment
  (id, workspace_id, installation_id, chat_session_id, chat_message_id, n, kind, channel_message_id, channel_key, name,
   deadline_at)
select file.id, conversation.workspace_id, conversation.installation_id, conversation.chat_session_id, :message_id,
  file.n, file.kind, :channel_message_id, file.channel_key, file.name,
  case when :awaited then now() + make_interval(secs => :fetch_seconds) end
from channel_chat_session_binding conversation
cross join unnest(:ids::uuid[], :kinds::text[], :channel_keys::text[], :names::text[])
  with ordinality as file (id, kind, channel_key, name, n)
where conversation.chat_session_id = :session_id and (select count(*) from told) >= 0;

-- name: adopt_attachments(message_id, former_id, fetch_seconds)!
-- When a held command is carried out, its text is appended as a new message. The command's files move to that message.
with told as (
  select pg_notify('gateway_attachment', '')
)
update chat_attachment
set chat_message_id = :message_id,
  deadline_at = case status when 'pending' then now() + make_interval(secs => :fetch_seconds) end
where chat_message_id = :former_id and (select count(*) from told) >= 0;

-- name: hold_command(message_id, session_id, author_id, words)!
-- Holds one command per person and conversation. A newer command replaces it, because the question is about the newest.
insert into channel_pending_command
  (chat_session_id, user_id, workspace_id, installation_id, chat_message_id, words)
select conversation.chat_session_id, :author_id, conversation.workspace_id, conversation.installation_id, :message_id, :words
from channel_chat_session_binding conversation
where conversation.chat_session_id = :session_id
on conflict (chat_session_id, user_id) do update
  set installation_id = excluded.installation_id, chat_message_id = excluded.chat_message_id, words = excluded.words,
    created_at = excluded.created_at;

-- name: drop_held_command(session_id, author_id)!
-- Used when the sender went on to something else.
delete from channel_pending_command where chat_session_id = :session_id and user_id = :author_id;

-- name: take_held_command(session_id, author_id, held_seconds)^
-- A held command is taken once, even if carrying it out fails later. Ordinary messages do not touch held commands. They
-- are noticed here instead: a later message of the same person in the conversation means that the command no longer
-- counts. Run this before the confirmation itself is appended, or the confirmation would count as such a message.
with taken as (
  delete from channel_pending_command where chat_session_id = :session_id and user_id = :author_id
  returning chat_message_id, words, created_at
)
select message.id as message_id, taken.words, message.content as body,
  coalesce(message.quoted_message_id, '') as quoted_id
from taken join chat_message message on message.id = taken.chat_message_id
where taken.created_at > now() - make_interval(secs => :held_seconds)
  and not exists (
    select from chat_message later
    where later.chat_session_id = :session_id and later.seq > message.seq and later.role = 'user'
      and later.author_user_id = :author_id
  );

-- name: get_former_words(session_id, author_id, before)$
-- Commands are included, because a title can be taken from one.
select content from chat_message
where chat_session_id = :session_id and role = 'user' and author_user_id = :author_id
  and (:before::uuid is null or seq < (select seq from chat_message where id = :before))
order by seq desc
limit 1;

-- name: get_age(sent_at)$
-- The database's clock decides, as everywhere.
select extract(epoch from now() - :sent_at::timestamptz)::double precision;

-- name: update_reply_target(session_id, message_id, thread_id)!
-- The answer quotes the newest message of the conversation.
update channel_chat_session_binding set last_message_id = :message_id, last_thread_id = nullif(:thread_id, '')
where chat_session_id = :session_id;

-- name: enqueue_chat_task(task_id, session_id, initiator_id, window_seconds, silent_seconds)^
-- One run waits per conversation. A later message joins it and moves its start.
-- The runtime is notified of a new row. It usually needs no notification of a moved row, because it looks again at the
-- old start time (see must_ring). An agent without a runtime gets no notification.
-- Live listeners are told of a run once, when it is queued. The id in `queued` equals task_id only if this statement
-- inserted the row.
-- An absence of the agent is noted on the conversation. `untold` says that this was the first message to meet it.
-- A runtime of another workspace counts as absent, because it could never take the run.
with target as (
  select session.id, session.workspace_id, session.agent_id, session.context_generation, agent.runtime_id,
    agent.archived_at is not null as agent_archived, session.archived_at is not null as session_archived,
    agent_absence(agent.archived_at, agent.runtime_id, agent.runtime_set_at, runtime.last_heartbeat_at,
      :silent_seconds) as absence
  from chat_session session join agent on agent.id = session.agent_id
  left join agent_runtime runtime on runtime.id = agent.runtime_id and runtime.workspace_id = agent.workspace_id
  where session.id = :session_id
), noted as (
  update channel_chat_session_binding conversation set absence_told = target.absence
  from target
  where conversation.chat_session_id = target.id and target.absence is not null
    and (target.agent_archived or not target.session_archived)
    and conversation.absence_told is distinct from target.absence
  returning conversation.id
), queued as (
  insert into agent_task
    (id, workspace_id, agent_id, kind, chat_session_id, initiator_user_id, context_generation, available_at)
  select :task_id, workspace_id, agent_id, 'chat', id, :initiator_id, context_generation,
    now() + make_interval(secs => :window_seconds)
  from target where not agent_archived and not session_archived
  on conflict (chat_session_id) where status = 'queued' and kind = 'chat' do update
    set available_at = excluded.available_at, initiator_user_id = excluded.initiator_user_id,
      context_generation = excluded.context_generation
  returning id
), told as (
  select pg_notify('gateway_task', target.runtime_id::text)
  from target cross join queued
  left join lateral (
    select available_at from agent_task
    where chat_session_id = target.id and status = 'queued' and kind = 'chat'
    limit 1
  ) former on true
  where target.runtime_id is not null
    and must_ring(former.available_at)
), announced as (
  select pg_notify('gateway_event', json_build_object('event', 'task:queued', 'workspace_id', target.workspace_id,
    'task_id', queued.id, 'agent_id', target.agent_id, 'issue_id', null, 'chat_session_id', target.id,
    'status', 'queued')::text)
  from target join queued on queued.id = :task_id
)
select agent_archived, session_archived, runtime_id is not null as has_runtime, absence is not null as absent,
  exists (select from noted) as untold
from target
where (select count(*) from told) >= 0 and (select count(*) from announced) >= 0;

-- name: ingest_plain_messages(tokens, channel_types, app_ids, message_ids, session_keys, sender_ids, thread_ids, contents, sent_ats, quoted_ids, bundles, window_seconds, silent_seconds, lock_milliseconds)
-- The fused path: takes in many messages that need no outside call, in one statement. After a crash a message is stored
-- whole or not at all. These are the parts of the statement, in order:
--
-- patience: Limits the time that this statement waits for a row lock. Locked conversations are left out (see eligible),
--   but a queued run that another transaction has locked cannot be left out in advance. The statement waits for it only
--   this long. The limit must be set before anything can wait: so patience is materialized, and event reads from it. It
--   is local to the transaction, which holds this statement only.
-- event: The messages, one row each, in the order given (ordinal).
-- eligible: An event is taken in only when every join holds and its claim is new. All other events leave no trace here
--   and are judged by the statements above, on the two-phase path.
--   The look-ups are lateral so that each is one probe of a unique index per event. The planner cannot know how many
--   events there are. With plain joins it reads whole tables, or all people of a bot.
--   A conversation that is locked elsewhere is skipped, because one slow transaction must not hold up every other bot.
--   An agent without a runtime is left to the two-phase path, which tells the sender of it. The same is true for an
--   agent whose runtime is silent, until the conversation has been told of that silence.
-- claimed: Claims are inserted in key order, as protection against deadlocks. Of equal messages in the batch only the
--   first gets a claim. A claim that exists already yields no row.
-- fresh: The token is new for each event and ties the event's rows together. So the same message twice in one batch
--   becomes one claim and one row.
-- latest: The last event of each conversation. It alone sets the reply target and queues or moves the run.
-- rung: The conversations whose runtime is notified (see must_ring).
-- announced: Live listeners are told of messages only where the runtime is notified. A commit with notifications costs
--   a tenth more, and further notifications in it cost nothing. A message that joins a run which still waits for its
--   window is not announced, because the start of that run is announced within seconds. A run is announced once: it was
--   queued by this statement if its id is a token.
with patience as materialized (
  select set_config('lock_timeout', :lock_milliseconds::text, true)
), event as (
  select event.*
  from patience, unnest(:tokens::uuid[], :channel_types::text[], :app_ids::text[], :message_ids::text[],
    :session_keys::text[], :sender_ids::text[], :thread_ids::text[], :contents::text[], :sent_ats::timestamptz[],
    :quoted_ids::text[], :bundles::boolean[])
    with ordinality as event (token, channel_type, app_id, message_id, session_key, sender_id, thread_id, content,
      sent_at, quoted_id, bundle, ordinal)
), eligible as (
  select event.token, event.message_id, event.thread_id, event.content, event.sent_at, event.quoted_id, event.bundle,
    event.ordinal,
    installation.id as installation_id, person.user_id, session.id as session_id, session.workspace_id,
    session.agent_id, session.context_generation, agent.runtime_id
  from event
  cross join lateral (
    select id, workspace_id from channel_installation
    where channel_type = event.channel_type and config ->> 'app_id' = event.app_id and status = 'active'
    limit 1
  ) installation
  cross join lateral (
    select binding.user_id
    from channel_user_binding binding
    join member on member.workspace_id = installation.workspace_id and member.user_id = binding.user_id
    where binding.installation_id = installation.id and binding.channel_user_id = event.sender_id
    limit 1
  ) person
  cross join lateral (
    select chat_session.id, chat_session.workspace_id, chat_session.agent_id, chat_session.context_generation,
      binding.absence_told
    from channel_chat_session_binding binding
    join chat_session on chat_session.id = binding.chat_session_id and chat_session.archived_at is null
    where binding.installation_id = installation.id and binding.channel_chat_id = event.session_key
    for no key update of chat_session skip locked
  ) session
  cross join lateral (
    select agent.runtime_id
    from agent
    left join agent_runtime runtime on runtime.id = agent.runtime_id and runtime.workspace_id = agent.workspace_id
    cross join lateral (
      select agent_absence(agent.archived_at, agent.runtime_id, agent.runtime_set_at, runtime.last_heartbeat_at,
        :silent_seconds) as name
    ) absence
    where agent.id = session.agent_id and agent.archived_at is null and agent.runtime_id is not null
      and (absence.name is null or absence.name = session.absence_told)
    limit 1
  ) agent
), claimed as (
  insert into channel_inbound_message_dedup (installation_id, message_id, processed_at, claim_token)
  select distinct on (installation_id, message_id) installation_id, message_id, now(), token
  from eligible
  order by installation_id, message_id, ordinal
  on conflict (installation_id, message_id) do nothing
  returning claim_token
), fresh as (
  select eligible.* from eligible join claimed on claimed.claim_token = eligible.token
), appended as (
  insert into chat_message
    (id, chat_session_id, role, content, author_user_id, context_generation, sent_at, channel_message_id,
     quoted_message_id, bundle)
  select token, session_id, 'user', content, user_id, context_generation, sent_at, message_id, nullif(quoted_id, ''),
    bundle
  from fresh
  order by ordinal
), latest as (
  select distinct on (session_id) * from fresh order by session_id, ordinal desc
), touched as (
  update chat_session set updated_at = now() from latest where chat_session.id = latest.session_id
), targeted as (
  update channel_chat_session_binding conversation
  set last_message_id = latest.message_id, last_thread_id = nullif(latest.thread_id, '')
  from latest where conversation.chat_session_id = latest.session_id
), queued as (
  insert into agent_task
    (id, workspace_id, agent_id, kind, chat_session_id, initiator_user_id, context_generation, available_at)
  select token, workspace_id, agent_id, 'chat', session_id, user_id, context_generation,
    now() + make_interval(secs => :window_seconds)
  from latest
  on conflict (chat_session_id) where status = 'queued' and kind = 'chat' do update
    set available_at = excluded.available_at, initiator_user_id = excluded.initiator_user_id,
      context_generation = excluded.context_generation
  returning id
), rung as (
  select latest.session_id, latest.runtime_id
  from latest
  left join lateral (
    select available_at from agent_task
    where chat_session_id = latest.session_id and status = 'queued' and kind = 'chat'
    limit 1
  ) former on true
  where must_ring(former.available_at)
), told as (
  select pg_notify('gateway_task', waiting.runtime_id::text)
  from (select distinct runtime_id from rung) waiting
), announced as (
  select pg_notify('gateway_event', json_build_object('event', 'chat:message', 'workspace_id', fresh.workspace_id,
    'chat_session_id', fresh.session_id, 'message_id', fresh.token)::text)
  from fresh join rung on rung.session_id = fresh.session_id
  union all
  select pg_notify('gateway_event', json_build_object('event', 'task:queued', 'workspace_id', fresh.workspace_id,
    'task_id', queued.id, 'agent_id', fresh.agent_id, 'issue_id', null, 'chat_session_id', fresh.session_id,
    'status', 'queued')::text)
  from queued join fresh on fresh.token = queued.id
)
select token
from fresh
where (select count(*) from told) >= 0 and (select count(*) from announced) >= 0;
