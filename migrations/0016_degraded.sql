-- A bot may hear and still ask the platform to send some events again: until when it counts as degraded for that.
-- depends: 0015_undelivered

alter table channel_connection add column degraded_until timestamptz;
