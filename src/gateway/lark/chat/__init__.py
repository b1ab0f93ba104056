"""Conversations on the platform: the long connection, messages in, answers out."""
