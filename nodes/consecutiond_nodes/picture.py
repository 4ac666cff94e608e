"""Pictures as files: the DOT text of a graph, drawn by graphviz."""

import subprocess
from pathlib import Path
from typing import Final

from consecutiond_nodes.errors import PictureError

#: what graphviz is asked for, by the ending of the file
KINDS: Final = ("svg", "png", "pdf")
#: seconds that graphviz may take; a graph of a thousand nodes takes a few
_TIMEOUT_S: Final = 60


def draw(dot_text: str, kind: str) -> bytes:
    """Draw a graph.

    Args:
        dot_text: the graph in the DOT language.
        kind: "svg", "png" or "pdf".

    Returns:
        The content of the picture's file.

    Raises:
        PictureError: the kind is unknown, graphviz is not installed, or it failed.

    """
    if kind not in KINDS:
        raise PictureError(f"a picture of kind {kind!r} cannot be drawn; there are {', '.join(KINDS)}")
    try:
        # Found in PATH like any tool of the user's.
        drawn = subprocess.run(
            ["dot", f"-T{kind}"],  # noqa: S607
            input=dot_text.encode(),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise PictureError(
            "graphviz, which draws pictures, is not installed: install it with `apt-get install graphviz`, or use "
            "graph.dot() or graph.mermaid(), which need nothing"
        ) from None
    except subprocess.TimeoutExpired:
        raise PictureError(f"graphviz took more than {_TIMEOUT_S} s for this graph; use graph.dot()") from None
    if drawn.returncode:
        raise PictureError(f"graphviz failed: {drawn.stderr.decode(errors='replace').strip()}")
    return drawn.stdout


def kind_of(path: Path, kind: str | None) -> tuple[Path, str]:
    """Tell which kind of picture a file is to have, and complete the name of one that has no ending.

    Args:
        path: as the user wrote it.
        kind: as the user wrote it; None goes by the ending of the path, and without one means "svg".

    """
    ending = path.suffix.removeprefix(".").lower()
    if kind is None:
        kind = ending or "svg"
    return (path if ending == kind else path.with_name(f"{path.name}.{kind}")), kind
