"""One task per installation, under a lease that is a cancel scope."""
