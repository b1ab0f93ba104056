"""Endpoints that other systems call: webhooks, and events that a platform posts."""
