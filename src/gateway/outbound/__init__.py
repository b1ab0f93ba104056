"""From a durable row to one visible message."""
