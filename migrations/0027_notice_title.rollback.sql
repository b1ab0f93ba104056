alter table outbound_message drop column title;
