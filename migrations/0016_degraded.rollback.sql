alter table channel_connection drop column degraded_until;
