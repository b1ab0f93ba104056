"""The inbound path: the fixed steps that turn a platform's message into a stored one, behind ports."""
