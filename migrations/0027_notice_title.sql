-- The heading of a notice: a platform that draws cards shows it above the words.
-- depends: 0026_payload_text

alter table outbound_message add column title text not null default '';
