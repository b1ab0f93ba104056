"""Webhooks: the judgement of requests, their dispatch to autopilots, and the log that holds each delivery."""
