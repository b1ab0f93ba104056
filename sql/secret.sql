-- Stored secrets, by kind of row that keeps them: count, page and replace. What is sealed is sealed for the row's id.

-- name: count_installation_secrets()$
-- How far a rotation has to go. Revoked bots count: they may come back, and an old key goes only when nothing needs it.
select count(*)
from channel_installation i
cross join lateral jsonb_object_keys(case jsonb_typeof(i.config) when 'object' then i.config else '{}' end) as name
where right(name, 10) = '_encrypted';

-- name: list_installation_secrets(after_id, after_name, rows_max)
-- record_class: StoredSecret
-- By key and not by offset, so that rows which come and go meanwhile make no other row be missed.
select i.id as owner_id, secret.key as name, coalesce(secret.value, '') as sealed
from channel_installation i
cross join lateral jsonb_each_text(case jsonb_typeof(i.config) when 'object' then i.config else '{}' end) as secret
where right(secret.key, 10) = '_encrypted' and (i.id, secret.key) > (:after_id::uuid, :after_name::text)
order by i.id, secret.key
limit :rows_max;

-- name: replace_installation_secret(owner_id, name, before, sealed)!
-- One key, and only over the value that was read: credentials that were changed meanwhile stay, and so does every other
-- key that somebody else is writing.
update channel_installation
set config = jsonb_set(config, array[:name::text], to_jsonb(:sealed::text), false)
where id = :owner_id and config ->> :name::text = :before;
