"""The composition root: the only room where Postgres and the platforms meet their users.

`run` nests the parts, and the nesting is the order of shutdown. What is opened first ends last: `database`, the HTTP
client, then the `services` (notifications, shared inserts, the `janitor`), and innermost the `intake` (bots and HTTP),
which ends first and drains. `foundation` is what all of them stand on, `platforms` says which chats are served.
"""
