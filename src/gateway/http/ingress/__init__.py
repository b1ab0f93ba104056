"""Entrances for other systems: webhooks, and events that a platform posts."""
