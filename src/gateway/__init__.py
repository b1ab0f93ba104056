"""gateway: connects Lark and Feishu bots to AI agents, one durable message in and exactly one answer out.

`cli` parses and prints. `daemon` is the composition root, the only package that connects Postgres and Lark with the
code that uses them.
`http`, `supervisor` and `outbound` run on top of `inbound`, which decides with `work` (tasks, sessions) and `channel`
(the platform-neutral contract). `core` holds decisions without I/O. `postgres` and `lark` implement the Protocols in
their consumers' `ports.py`. `observe` is logs, metrics and health; all others report to its metrics through `recorder`.
`simulator` is a Lark platform for demo and tests.
The allowed imports between these packages are import-linter contracts in pyproject.toml, checked by `make lint`.
"""

__version__ = "0.1.0"
