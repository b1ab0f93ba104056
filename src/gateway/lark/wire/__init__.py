"""The protocol of the long connection, sans-IO: frames, split events, session states, bootstrap answers."""
