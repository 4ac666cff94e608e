"""``consecutiond graph``: the picture of a graph, or of a running consecutor with what flows through it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from consecutiond.cli import exits
from consecutiond.effective import Given
from consecutiond.planpicture import Parts, parts_of, picture_of_plan, workers_of
from consecutiond_nodes import render
from consecutiond_nodes.errors import PictureError
from consecutiond_nodes.render import Picture

#: what can be asked for, and the endings of files that mean it
FORMATS: Final = {
    "text": (".txt",),
    "dot": (".dot", ".gv"),
    "mermaid": (".mmd", ".mermaid"),
    "svg": (".svg",),
    "png": (".png",),
    "json": (".json",),
}


class View:
    """A picture and what JSON says beyond it.

    Args:
        picture: its arrows know their URIs.
        about: what JSON says of the whole.
        nodes: what JSON says of each node.
        edges: what JSON says of each edge.
    """

    def __init__(
        self, picture: Picture, about: dict[str, Any], nodes: Mapping[str, dict[str, Any]],
        edges: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self.picture, self.about, self.nodes, self.edges = picture, about, nodes, edges or {}

    def json(self) -> dict[str, Any]:
        """Return it as plain values."""
        nodes = [{"name": name, **self.nodes[name]} for name in self.picture.nodes]
        return {**self.about, "nodes": nodes, "edges": [self._edge(arrow) for arrow in self.picture.arrows]}

    def _edge(self, arrow: render.Arrow) -> dict[str, Any]:
        routed = {"router": arrow.router} if arrow.router else {}
        ends = {"name": arrow.edge, "upstream": arrow.source, "downstream": arrow.target, "uri": arrow.uri}
        return {**ends, **routed, **self.edges.get(arrow.edge, {})}

    def text(self, *, uris: bool) -> str:
        """Return it for a terminal: the lanes, and a line for each edge if there is more to say of them."""
        lines = [render.text(self.picture)]
        rows = [
            (arrow.edge, *([arrow.label] if self.edges else []), *([arrow.uri] if uris else []))
            for arrow in self.picture.arrows
        ]
        if uris or self.edges:
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]
        return "\n".join(lines)

    def with_uris(self) -> Picture:
        """Return the picture with the URI written at each arrow."""
        arrows = (
            arrow._replace(label=", ".join(part for part in (arrow.label, arrow.uri) if part))
            for arrow in self.picture.arrows
        )
        return self.picture._replace(arrows=tuple(arrows))


def show_graph(
    target: str | None, live: str | None, given: Given, format: str | None, output: Path | None, *, uris: bool
) -> int:
    """Print a picture, or write it into a file; return the exit code.

    Args:
        target: the graph to import; None for `live`.
        live: the id of a running consecutor.
        given: the options of the command line.
        format: one of `FORMATS`; None goes by the ending of `output`, and without one means text.
        output: the file; None is stdout.
        uris: write the URI at each arrow.

    Raises:
        PictureError: it cannot be drawn, or not be written there.
    """
    format = _format(format, output)
    if live is not None:
        from consecutiond.cli.livegraph import live_view

        view = live_view(live, given)
        if view is None:
            return exits.NOT_RUNNING
    else:
        view = _planned_view(str(target), given)
    _put(_drawn(view, format, uris=uris), output)
    return exits.OK


def _format(format: str | None, output: Path | None) -> str:
    if format is None:
        ending = output.suffix.lower() if output is not None else ".txt"
        format = next((name for name, endings in FORMATS.items() if ending in endings), "text")
    if format not in FORMATS:
        raise PictureError(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
    if format == "png" and output is None and sys.stdout.isatty():
        raise PictureError("a terminal cannot show a PNG file: name a file with --output, or choose another format")
    return format


def _drawn(view: View, format: str, *, uris: bool) -> bytes:
    if format == "json":
        return msgspec.json.format(msgspec.json.encode(view.json()), indent=2) + b"\n"
    if format == "text":
        return f"{view.text(uris=uris)}\n".encode()
    picture = view.with_uris() if uris else view.picture
    if format == "mermaid":
        return f"{render.mermaid(picture)}\n".encode()
    dot = render.dot(picture)
    if format == "dot":
        return f"{dot}\n".encode()
    from consecutiond_nodes.picture import draw

    return draw(dot, format)


def _put(content: bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    draft = output.with_name(f"{output.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(output)
    except OSError as error:
        raise PictureError(f"the picture cannot be written to {output}: {error.strerror}") from None


def _planned_view(target: str, given: Given) -> View:
    """Import a graph and plan it; nothing is started, and nothing is made in the directory."""
    from consecutiond.cli.target import consecutor_of
    from consecutiond.plan import Places, make_plan
    from consecutiond.rundir import RunDir

    consecutor = consecutor_of(target, given)
    settings = consecutor.settings
    directory = RunDir(settings.dir, settings.id)

    def uri(name: str) -> str:
        threads = settings.architecture == "thread"
        return f"inproc://{name}" if threads else directory.socket_uri(name, look_only=True)

    places = Places(uri=uri, plan="", pid_dir="", supervisor_socket="", store="")
    names = tuple(consecutor.outputs) or None
    plan = make_plan(consecutor.graph, settings, target, names, places, local_output=False)
    parts: Parts = parts_of(plan.to_json())
    picture = picture_of_plan(parts, render.picture_of(consecutor.graph))
    nodes = {name: {"workers": len(workers)} for name, workers in workers_of(parts).items()}
    return View(picture, {"id": settings.id, "target": target, "architecture": settings.architecture}, nodes)
