"""Logging of child processes: one event a line on stderr, with the part's name; cheap to import."""

import logging
import sys


def log_to_stderr(part: str, level: int = logging.INFO) -> None:
    """Send every event of this process to stderr as ``time LEVEL part event key=value …``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {part} %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
