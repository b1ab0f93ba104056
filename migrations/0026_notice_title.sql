-- The heading of a notice: a platform that draws cards shows it above the words.
-- depends: 0025_rules

alter table outbound_message add column title text not null default '';
