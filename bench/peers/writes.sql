-- What every competitor makes durable before its ACK: the claim, the membership check, the message, the session's
-- time and reply target, one queued run, and the claim's mark. The peers run these in one transaction.
insert into channel_inbound_message_dedup (installation_id, message_id, claim_token)
values (%(installation)s, %(message)s, gen_random_uuid()) on conflict do nothing returning claim_token;

select b.user_id, s.chat_session_id, i.workspace_id, i.agent_id
from channel_installation i
join channel_user_binding b on b.installation_id = i.id and b.channel_user_id = %(sender)s
join member m on m.workspace_id = i.workspace_id and m.user_id = b.user_id
join channel_chat_session_binding s on s.installation_id = i.id and s.channel_chat_id = %(chat)s
where i.id = %(installation)s and i.status = 'active';

insert into chat_message (id, chat_session_id, role, content, author_user_id, sent_at)
values (gen_random_uuid(), %(session)s, 'user', %(text)s, %(user)s, now());

update channel_chat_session_binding set last_message_id = %(message)s where chat_session_id = %(session)s;

insert into agent_task (id, workspace_id, agent_id, kind, chat_session_id, initiator_user_id, available_at)
values (gen_random_uuid(), %(workspace)s, %(agent)s, 'chat', %(session)s, %(user)s, now() + interval '3 seconds')
on conflict (chat_session_id) where status = 'queued' and kind = 'chat'
do update set available_at = excluded.available_at;

update channel_inbound_message_dedup set processed_at = now()
where installation_id = %(installation)s and message_id = %(message)s;
