"""Conversations and the runs they ask for: queueing, claiming, finishing, files, and the messages sent to the chat."""
