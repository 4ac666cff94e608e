"""Floor 1: frames, edges, credit and liveness; it knows no node, no store and no settings."""
