-- Where a message of a conversation came from on its platform: what it quotes and bundles is looked up there when a run
-- takes it in. Only the sender's own words are stored; what others said stays on the platform.
-- depends: 0004_binding

alter table chat_message
  add column channel_message_id text,
  add column quoted_message_id text,
  add column bundle boolean not null default false;
