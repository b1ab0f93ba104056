drop table chat_attachment;
