"""Floor 2: what a user writes, and the process that runs it."""
