-- Signing in: local accounts and their sessions.

-- name: account_by_email(email)^
-- The caller passes the address in lower case, because the column holds lower case only.
select id, password_hash from app_user where email = :email;

-- name: add_session(hashed, user_id, password_hash, seconds)!
-- Inserts no row when the password was changed while it was being checked. The user's row is locked against a change
-- until the session is committed, so that a change then ends this session too. The database's clock sets the expiry, so
-- that no replica's own clock can extend it.
insert into user_session (token_hash, user_id, expires_at)
select :hashed, id, now() + make_interval(secs => :seconds)
from app_user where id = :user_id and password_hash = :password_hash
for share;

-- name: session_owner(hashed)$
-- Runs once for each request with a cookie. The primary key serves it.
select user_id from user_session where token_hash = :hashed and expires_at > now();

-- name: end_session(hashed)!
-- Takes effect at once, on every replica.
delete from user_session where token_hash = :hashed;

-- name: person(user_id)^
-- The signed-in person.
select id, email, name, created_at from app_user where id = :user_id;

-- name: memberships(user_id)
-- The workspaces of a signed-in person, with their role in each.
select w.id, w.name, w.slug, m.role
from member m
join workspace w on w.id = m.workspace_id
where m.user_id = :user_id
order by w.name, w.id;
