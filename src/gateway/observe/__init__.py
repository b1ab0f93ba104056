"""Observability for the operator: logs, metrics, health, and notifications to systemd."""
