alter table chat_message drop column channel_message_id, drop column quoted_message_id, drop column bundle;
