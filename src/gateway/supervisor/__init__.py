"""The supervisor: one task per installation, under a lease that is a cancel scope."""
