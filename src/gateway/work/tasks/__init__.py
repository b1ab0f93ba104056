"""Conversations and the runs they ask for: queueing, claiming, finishing, files, and what is said to the chat."""
