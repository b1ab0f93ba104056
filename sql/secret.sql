-- Stored secrets, by kind of row that keeps them: count, page and replace. Each value is sealed for the id of its row.

-- name: count_installation_secrets()$
-- The total for a key rotation. Revoked bots count, because they may be reactivated, and an old key may be removed only
-- when no value needs it.
select count(*)
from channel_installation i
cross join lateral jsonb_object_keys(case jsonb_typeof(i.config) when 'object' then i.config else '{}' end) as name
where right(name, 10) = '_encrypted';

-- name: list_installation_secrets(after_id, after_name, rows_max)
-- Pages by key and not by offset, so that rows which appear or disappear meanwhile do not make it skip another row.
select i.id as owner_id, secret.key as name, coalesce(secret.value, '') as sealed
from channel_installation i
cross join lateral jsonb_each_text(case jsonb_typeof(i.config) when 'object' then i.config else '{}' end) as secret
where right(secret.key, 10) = '_encrypted' and (i.id, secret.key) > (:after_id::uuid, :after_name::text)
order by i.id, secret.key
limit :rows_max;

-- name: replace_installation_secret(owner_id, name, before, sealed)!
-- Replaces one key, and only if it still has the value that was read. Credentials that were changed meanwhile stay, and
-- so do the other keys, which another transaction may be writing.
update channel_installation
set config = jsonb_set(config, array[:name::text], to_jsonb(:sealed::text), false)
where id = :owner_id and config ->> :name::text = :before;

-- name: count_scan_secrets()$
-- Codes that wait for a scan, and apps that were granted and are not bots yet. A session that has ended keeps neither.
select coalesce(sum(num_nonnulls(device_code, credentials)), 0)::bigint from lark_install_session where status = 'pending';

-- name: list_scan_secrets(after_id, after_name, rows_max)
-- Stored as bytes, returned as base64 on one line.
select s.id as owner_id, secret.name, replace(encode(secret.value, 'base64'), E'\n', '') as sealed
from lark_install_session s
cross join lateral (values ('credentials', s.credentials), ('device_code', s.device_code)) as secret (name, value)
where s.status = 'pending' and secret.value is not null and (s.id, secret.name) > (:after_id::uuid, :after_name::text)
order by s.id, secret.name
limit :rows_max;

-- name: replace_scan_secret(owner_id, name, before, sealed)!
-- Replaces one value, and only if it still is the one that was read: the session may end, or be granted its app, at the
-- same moment.
update lark_install_session
set device_code = case when :name = 'device_code' then decode(:sealed, 'base64') else device_code end,
  credentials = case when :name = 'credentials' then decode(:sealed, 'base64') else credentials end
where id = :owner_id and status = 'pending'
  and case :name when 'device_code' then device_code when 'credentials' then credentials end = decode(:before, 'base64');

-- name: count_signing_secrets()$
-- Expired ones count as well: their expiry may be moved, and an old key may be removed only when no value needs it.
select count(*) from webhook_signing_secret;

-- name: list_signing_secrets(after_id, after_name, rows_max)
-- One secret per row, so its id alone gives the order.
select id as owner_id, 'secret_encrypted' as name, secret_encrypted as sealed
from webhook_signing_secret
where (id, 'secret_encrypted') > (:after_id::uuid, :after_name::text)
order by id
limit :rows_max;

-- name: replace_signing_secret(owner_id, name, before, sealed)!
-- Only over the value that was read. The secret itself is the same, sealed with another key, so triggers that other
-- processes have cached stay valid.
update webhook_signing_secret set secret_encrypted = :sealed
where id = :owner_id and :name::text = 'secret_encrypted' and secret_encrypted = :before;
