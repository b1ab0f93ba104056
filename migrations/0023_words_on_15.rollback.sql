-- The function stays: it finds the same words as the one before it, on every version.
select;
