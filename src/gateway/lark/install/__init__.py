"""Connecting a bot: the device flow behind a scanned code, its session, and what becomes an installation."""
