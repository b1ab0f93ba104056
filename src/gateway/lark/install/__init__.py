"""Connecting a bot: the device flow behind a scanned code, the scan session, and the installation made from it."""
