"""Sending: turns each durable row into one visible message, and shows the typing sign."""
