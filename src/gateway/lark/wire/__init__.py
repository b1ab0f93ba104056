"""The long connection's protocol, sans-IO: frames, chunks, the session's states, bootstrap answers."""
