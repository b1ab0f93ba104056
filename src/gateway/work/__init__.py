"""The domain that agents work in: sessions, tasks, issues, autopilots, and people with their agents."""
