"""Autopilots, and the runs that a delivery or a person starts."""
