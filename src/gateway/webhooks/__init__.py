"""Webhooks: what a sender's request is worth, what becomes of it, and the log in which each can be found again."""
