"""Supervision: the root of the process tree, how it is configured and spoken to, and when a part is restarted."""
