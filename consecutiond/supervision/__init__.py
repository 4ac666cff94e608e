"""Supervision: the root of the process tree, how one speaks to it, and when a part is started again."""
