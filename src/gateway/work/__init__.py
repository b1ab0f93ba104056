"""What agents work on: sessions, tasks, people and their agents."""
