"""The platform-neutral contract between chat platforms and the rest of the gateway. Pure: no I/O, no platform word."""
