"""Decisions without I/O: time, randomness and ids come in as arguments."""
