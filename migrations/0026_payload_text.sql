-- Payloads of webhooks as their senders wrote them.
-- depends: 0025_rules

-- jsonb writes a number in its own way: a few bytes such as 1e999 become a thousand, in every reader of the payload. As
-- json it stays the text that was sent.
alter table autopilot_run alter column trigger_payload type json using trigger_payload::json;

-- The words of a body by which its delivery is found. Only its first quarter of a megabyte is read.
create or replace function webhook_words(body bytea) returns tsvector language plpgsql immutable strict parallel safe as $$
declare
  said text;
begin
  said := convert_from(substring(body from 1 for 262144), 'UTF8');
  if left(said, 8) = 'payload=' or said like '%&payload=%' then
    said := convert_from((
      select string_agg(case when part[1] is null then convert_to(part[2], 'UTF8') else decode(part[1], 'hex') end, ''::bytea)
      from regexp_matches(replace(said, '+', ' '), '%([0-9A-Fa-f]{2})|([^%]+|%)', 'g') as part), 'UTF8');
  end if;
  -- jsonb would write out a number such as 1e99999 in full. Texts are left out of the search for one.
  if position('\u' in said) > 0 and regexp_replace(said, '"([^"\\]|\\.)*"', '', 'g') !~ '[0-9][eE][+-]?[0-9]{3}' then
    begin
      said := replace(said, '\u0000', ' ')::jsonb::text;
    exception when data_exception then
      null; -- no JSON: its words are found as they were written
    end;
  end if;
  return strip(to_tsvector('pg_catalog.simple', translate(said, '{}[]()<>"'':,;=&@/\.-+*#%?!|~^$`', '                                ')));
exception
  when character_not_in_repertoire or untranslatable_character then
    return ''::tsvector;
  when program_limit_exceeded or data_exception then
    return strip(to_tsvector('pg_catalog.simple', left(said, 16384)));
end $$;
