-- Typing signs: shown while a run lasts, and removed, only by the holder of the lease of the bot.

-- name: take_due_typing(installation_id, lease_epoch, busy, rows_max)
-- Signs to be removed go first, because an answer may be waiting for that. The pauses of a former holder do not count:
-- the rows that it left are due at once.
with due as (
  select typing.id
  from channel_typing typing
  where typing.installation_id = :installation_id
    and (typing.status = 'unwanted' or (typing.status = 'wanted' and typing.show_before > now()))
    and typing.id <> all(:busy::uuid[])
    and coalesce(typing.lease_epoch, 0) <= :lease_epoch
    and (typing.available_at <= now() or typing.lease_epoch < :lease_epoch)
    and exists (
      select from channel_installation installation
      where installation.id = :installation_id and installation.lease_epoch = :lease_epoch
    )
  order by typing.status = 'wanted', typing.created_at
  limit :rows_max
  for no key update of typing
)
update channel_typing typing
set attempts = typing.attempts + 1, lease_epoch = :lease_epoch, available_at = least(typing.available_at, now()),
  updated_at = now()
from due
where typing.id = due.id and typing.status in ('wanted', 'unwanted')
returning typing.id, typing.channel_message_id, typing.reaction_id, typing.status = 'unwanted' as unwanted,
  typing.attempts;

-- name: mark_typing_shown(id, lease_epoch, reaction_id)$
-- The run may have ended meanwhile. Then the sign stays unwanted, but now its id is known. Returns the status, or no
-- row when another holder has taken the row over.
update channel_typing
set status = case status when 'wanted' then 'shown' else status end, reaction_id = :reaction_id, updated_at = now()
where id = :id and lease_epoch = :lease_epoch and status in ('wanted', 'unwanted')
returning status;

-- name: mark_typing_gone(id, lease_epoch)!
-- It was removed, or it disappeared together with its message.
update channel_typing set status = 'gone', updated_at = now()
where id = :id and lease_epoch = :lease_epoch and status = 'unwanted';

-- name: mark_typing_failed(id, lease_epoch)!
-- Final. It is not reported to the chat, because a sign is not a message.
update channel_typing set status = 'failed', updated_at = now()
where id = :id and lease_epoch = :lease_epoch and status in ('wanted', 'unwanted');

-- name: postpone_typing(id, lease_epoch, unwanted, delay_seconds)!
-- Has no effect if the run ended during the attempt: then the row is due at once, to be removed.
update channel_typing set available_at = now() + make_interval(secs => :delay_seconds), updated_at = now()
where id = :id and lease_epoch = :lease_epoch
  and status = case when :unwanted then 'unwanted' else 'wanted' end;
