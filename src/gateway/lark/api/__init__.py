"""Calls to the platform's HTTP API: requests, answers, tokens, the two clouds, and proxies."""
