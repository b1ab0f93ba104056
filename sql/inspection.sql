-- name: inspect_database(names, wanted)^
-- Everything that must be right before the gateway can use a database, in one look. `names` and `wanted` are settings
-- and their values. A schema is a home of the gateway if it has the tables by which 0001 and yoyo are recognised.
with here as (
  select oid, nspname from pg_namespace where nspname = current_schema()
), homes as (
  select relnamespace, min(relowner::int8) filter (where relname = '_yoyo_migration')::oid as owner
  from pg_class where relkind = 'r' and relname in ('_yoyo_migration', 'agent_runtime', 'agent_task')
  group by relnamespace having count(*) = 3
)
select
  current_database()::text as database,
  d.oid::bigint as database_oid,
  pg_postmaster_start_time() as server_started_at,
  pg_encoding_to_char(d.encoding)::text as encoding,
  current_user::text as role,
  current_setting('search_path') as search_path,
  here.nspname::text as schema,
  coalesce(has_schema_privilege(here.oid, 'create'), false) as may_create,
  current_setting('default_transaction_read_only') = 'on' as read_only,
  pg_is_in_recovery() as standby,
  array(select n.nspname::text from homes join pg_namespace n on n.oid = homes.relnamespace order by 1) as homes,
  pg_get_userbyid(home.owner)::text as owner,
  coalesce(pg_has_role(home.owner, 'usage'), true) as is_owner,
  -- The tables of other programs in the same schema have other owners, and are none of our business.
  array(
    select relname::text from pg_class
    where relkind = 'r' and relnamespace = here.oid and relowner = home.owner and not (
      has_table_privilege(oid, 'select') and has_table_privilege(oid, 'insert')
      and has_table_privilege(oid, 'update') and has_table_privilege(oid, 'delete'))
    order by 1
  ) as forbidden,
  -- Tables that the first migration makes.
  array(
    select relname::text from pg_class
    where home.owner is null and relnamespace = here.oid and relkind in ('r', 'p', 'v', 'm', 'f')
      and relname in ('workspace', 'app_user', 'member', 'agent', 'agent_runtime', 'issue', 'agent_task', 'api_token')
    order by 1
  ) as occupied,
  array(
    select name || ' = ' || current_setting(name) from unnest(:names::text[], :wanted::text[]) as s (name, value)
    where current_setting(name) is distinct from value order by 1
  ) as unlike
from pg_database d
left join here on true
left join homes home on home.relnamespace = here.oid
where d.datname = current_database();
