"""What an operator sees: logs, metrics, health, and what systemd is told."""
