drop table channel_pending_command;
drop index issue_position_idx;
drop index issue_open_title_idx;
drop function issue_title_key(text);
