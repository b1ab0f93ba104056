-- A reply to a message of a bot addresses the bot, so a message is looked up by the id that the platform gave it.
-- depends: 0023_words_on_15

create index outbound_message_channel_message_idx on outbound_message (installation_id, channel_message_id)
  where channel_message_id is not null;
create index channel_outbound_card_message_message_idx on channel_outbound_card_message (channel_card_message_id);
