-- Signing in: local accounts and their sessions.

-- name: account_by_email(email)^
-- record_class: Account
-- The caller lower-cases: the column holds lower case only.
select id, password_hash from app_user where email = :email;

-- name: add_session(hashed, user_id, password_hash, seconds)!
-- None when the password was changed while it was being checked: the row is locked against that until the session is
-- there to be ended. The database's clock says when it ends, so that no replica's own clock can stretch it.
insert into user_session (token_hash, user_id, expires_at)
select :hashed, id, now() + make_interval(secs => :seconds)
from app_user where id = :user_id and password_hash = :password_hash
for share;

-- name: session_owner(hashed)$
-- Asked once per request with a cookie; served by the primary key.
select user_id from user_session where token_hash = :hashed and expires_at > now();

-- name: end_session(hashed)!
-- Gone at once, on every replica.
delete from user_session where token_hash = :hashed;

-- name: person(user_id)^
-- record_class: User
-- Who is signed in.
select id, email, name, created_at from app_user where id = :user_id;

-- name: memberships(user_id)
-- record_class: Membership
-- Where a signed-in person may go.
select w.id, w.name, w.slug, m.role
from member m
join workspace w on w.id = m.workspace_id
where m.user_id = :user_id
order by w.name, w.id;
