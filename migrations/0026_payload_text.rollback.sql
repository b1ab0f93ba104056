create or replace function webhook_words(body bytea) returns tsvector language plpgsql immutable strict parallel safe as $$
declare
  said text;
  is_json boolean := false;
begin
  said := convert_from(substring(body from 1 for 262144), 'UTF8');
  if left(said, 8) = 'payload=' or said like '%&payload=%' then
    said := convert_from((
      select string_agg(case when part[1] is null then convert_to(part[2], 'UTF8') else decode(part[1], 'hex') end, ''::bytea)
      from regexp_matches(replace(said, '+', ' '), '%([0-9A-Fa-f]{2})|([^%]+|%)', 'g') as part), 'UTF8');
  end if;
  if position('\u' in said) > 0 then
    -- The cast to json checks the syntax alone, as `is json` does, which PostgreSQL 15 does not have.
    begin
      perform said::json;
      is_json := true;
    exception
      when invalid_text_representation then
        is_json := false;
    end;
  end if;
  if is_json then
    said := replace(said, '\u0000', ' ')::jsonb::text;
  end if;
  return strip(to_tsvector('pg_catalog.simple', translate(said, '{}[]()<>"'':,;=&@/\.-+*#%?!|~^$`', '                                ')));
exception
  when character_not_in_repertoire or untranslatable_character then
    return ''::tsvector;
  when program_limit_exceeded or data_exception then
    return strip(to_tsvector('pg_catalog.simple', left(said, 16384)));
end $$;

alter table autopilot_run alter column trigger_payload type jsonb using trigger_payload::jsonb;
