"""From a platform's message to a durable one: the fixed order of steps, behind ports."""
