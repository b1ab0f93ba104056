"""The composition root: the only package that connects Postgres and the platforms with the code that uses them.

`run` nests the parts, and the nesting is the order of shutdown: the part that is opened first ends last. The outermost
are the `database` and the HTTP client, then come the `services` (notifications, shared inserts, the `janitor`). The
innermost is the `intake` (bots and HTTP), which ends first and drains. `foundation` holds the objects that all of them
share. `platforms` registers the chat platforms that are served.

The commands work on the same database without a daemon. They open what they need here too, so that it is put together
in one way: `administration`, `secret_rotation` and `checkup` hold what mostly commands use.
"""
