"""A Lark platform on loopback, faithful enough for the official SDKs; for the demo and the tests."""
