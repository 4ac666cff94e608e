"""`consecutiond graph`: the edges of every picture are exactly the sockets of the running consecutor."""

import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consecutiond.cli import exits
from tests.system.shell import Shell, wait_for

HAS_DOT = shutil.which("dot") is not None
DRAWN = pytest.mark.skipif(not HAS_DOT, reason="graphviz is not installed")
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"

#: two ways to one node, a router, a node with two workers, names with dashes, and an output
FLOW = """
    import os
    import time
    from pathlib import Path
    from consecutiond import Node

    class Gate(Node):
        def process(self, value):
            while value == "wait" and not Path("open").exists():
                time.sleep(0.01)
            self.push(value)

    class Write(Node):
        def process(self, value):
            self.write("out", value)

    def route(value):
        return "left-1"

    print("imported by", os.getpid(), file=open("imports", "a"))
    wide = Node("left-1")
    wide.set_num_workers(2)
    graph = Gate("gate") | [wide, Node("right"), route] | Write("sink")
"""
EDGES = {
    "input->gate", "gate->left-1", "gate->right", "left-1->sink", "right->sink", "*->output",
}  # fmt: skip


@pytest.fixture
def flow(shell: Shell) -> Shell:
    shell.write("flow.py", FLOW)
    return shell


def running(flow: Shell) -> Shell:
    done = flow.run("start", "flow.py", "--detach")
    assert done.returncode == exits.OK, done.stderr
    return flow


def sockets(home: Path) -> set[Path]:
    return set((home / "socket_files").resolve().glob("edge-*"))


def places(uris: dict[str, str]) -> set[Path]:
    """Return where the sockets really are; a URI may go through a short link."""
    return {Path(uri.removeprefix("ipc://")).resolve() for uri in uris.values()}


def found(flow: Shell, *words: str) -> str:
    done = flow.run("graph", *words)
    assert (done.returncode, done.stderr) == (exits.OK, "")
    return done.stdout


def from_text(printed: str) -> dict[str, str]:
    lines = printed.split("\n\n")[-1].splitlines()
    return {line.split()[0]: line.split()[-1] for line in lines}


def from_json(printed: str) -> dict[str, str]:
    return {edge["name"]: edge["uri"] for edge in msgspec.json.decode(printed)["edges"]}


def from_dot(printed: str) -> dict[str, str]:
    arrows = re.findall(r'^  "(.+)" -> "(.+)" \[.*tooltip="(.+)"\];$', printed, re.MULTILINE)
    assert len(arrows) == printed.count("->")
    return {f"{source}->{target}": uri for source, target, uri in arrows}


def from_mermaid(printed: str) -> dict[str, str]:
    keys = dict(re.findall(r'^  (n\d+)\["(\S+).*"\]$', printed, re.MULTILINE)) | {"any": "*"}
    arrow = re.compile(r"^  %% \S+ is (\S+)\n  (\w+) .*> (\w+)$", re.MULTILINE)
    arrows = arrow.findall(printed)
    assert len(arrows) == len(re.findall(r"--> |\.-> ", printed))
    return {f"{keys.get(source, source)}->{keys.get(target, target)}": uri for uri, source, target in arrows}


def from_svg(printed: str) -> dict[str, str]:
    uris = {}
    for group in ET.fromstring(printed).iter(f"{SVG}g"):
        if group.get("class") == "edge":
            [title], [link, *_] = group.findall(f"{SVG}title"), list(group.iter(f"{SVG}a"))
            uris[str(title.text)] = str(link.get(f"{XLINK}title"))
    return uris


FORMATS = [
    pytest.param(("--uris",), from_text, id="text"),
    pytest.param(("--json",), from_json, id="json"),
    pytest.param(("--format", "dot"), from_dot, id="dot"),
    pytest.param(("--format", "mermaid"), from_mermaid, id="mermaid"),
    pytest.param(("--format", "svg"), from_svg, id="svg", marks=DRAWN),
]


def test_the_edges_of_every_picture_are_exactly_the_sockets_of_the_running_consecutor(flow: Shell) -> None:
    """Before the start, of the target; while it runs, of the target, and of the consecutor itself."""
    kinds = [mark.values for mark in FORMATS if HAS_DOT or mark.id != "svg"]
    before = [parse(found(flow, "flow.py", *words)) for words, parse in kinds]  # type: ignore[operator]
    assert not flow.home("flow").exists(), "a look makes nothing"
    running(flow)
    real = sockets(flow.home("flow"))
    assert len(real) == len(EDGES)
    for words, parse in kinds:
        for uris in (
            before.pop(0),
            parse(found(flow, "flow.py", *words)),  # type: ignore[operator]
            parse(found(flow, "--live", "flow", *words)),  # type: ignore[operator]
        ):
            assert set(uris) == EDGES, words
            assert places(uris) == real, words


def test_of_a_directory_with_a_long_path_the_uris_are_the_short_ones_that_the_start_will_make(flow: Shell) -> None:
    deep = flow.directory / ("d" * 100)
    flow.environment["CONSECUTIOND_DIR"] = str(deep)
    before = from_json(found(flow, "flow.py", "--json"))
    link = Path(before["input->gate"].removeprefix("ipc://")).parent
    assert not link.exists(), "a look makes nothing"
    running(flow)
    assert places(before) == sockets(deep / "flow")
    assert from_json(found(flow, "--live", "flow", "--json")) == before
    assert flow.run("stop", "flow").returncode == exits.OK
    assert not link.exists()


def test_in_threads_the_uris_are_those_of_the_process(flow: Shell) -> None:
    uris = from_json(found(flow, "flow.py", "--json", "--architecture", "thread"))
    assert uris["gate->left-1"] == "inproc://edge-gate-left-1"
    assert set(uris) == EDGES


def test_the_default_is_what_print_shows(flow: Shell) -> None:
    flow.write("show.py", "from flow import graph\nprint(graph)\n")
    assert found(flow, "flow.py") == flow.python("show.py").communicate(timeout=60)[0]


# --- a running one -------------------------------------------------------------------------------------------


def live(flow: Shell) -> tuple[dict[str, Any], dict[str, Any]]:
    shown = msgspec.json.decode(found(flow, "--live", "flow", "--json"))
    return ({node["name"]: node for node in shown["nodes"]}, {edge["name"]: edge for edge in shown["edges"]})


def test_a_running_graph_shows_depth_and_rate_of_each_edge_and_the_workers_of_each_node(flow: Shell) -> None:
    running(flow)
    assert flow.run("push", "flow", stdin="wait\n" * 5).returncode == exits.OK

    def stuck() -> dict[str, Any] | None:
        edge: dict[str, Any] = live(flow)[1]["input->gate"]
        return edge if edge["items_queued"] + edge["items_held"] == 5 else None

    edge = wait_for(stuck, "five items before the gate")
    assert edge["batches_queued"] + edge["batches_held"] >= 1
    assert (edge["items"], edge["items_per_s"]) == (0, 0)
    assert re.search(r"^input->gate +0 items/s, 5 items in \d batch", found(flow, "--live", "flow"), re.MULTILINE)
    (flow.directory / "open").touch()
    wait_for(lambda: live(flow)[1]["*->output"]["items"] == 5, "five items at the output")
    nodes, edges = live(flow)
    assert {name for name, edge in edges.items() if edge["items"]} == EDGES - {"gate->right", "right->sink"}
    assert edges["input->gate"]["items_per_s"] > 0
    assert edges["gate->right"]["items_per_s"] == 0
    assert [worker["name"] for worker in nodes["left-1"]["running"]] == ["left-1.0", "left-1.1"]
    assert all(worker["state"] == "ready" and worker["pid"] > 0 for worker in nodes["left-1"]["running"])


def test_the_target_of_a_running_graph_is_not_imported_and_need_not_be_there(flow: Shell) -> None:
    running(flow)
    imports = (flow.directory / "imports").read_text()
    (flow.directory / "flow.py").unlink()
    assert "left-1 x2" in found(flow, "--live", "flow")
    assert (flow.directory / "imports").read_text() == imports


def test_live_counters_are_labels_of_the_arrows_of_every_picture(flow: Shell) -> None:
    running(flow)
    assert '"input" -> "gate" [label="0 items/s, empty", tooltip=' in found(flow, "--live", "flow", "--format", "dot")
    mermaid = found(flow, "--live", "flow", "--format", "mermaid", "--uris")
    assert re.search(r'input -- "0 items/s, empty, ipc://\S+edge-input-gate\.sock" --> n0', mermaid)


# --- files and faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("g.dot", b"digraph {"),
        ("g.mmd", b"flowchart LR"),
        ("g.json", b"{"),
        ("g.txt", "●  gate".encode()),
        ("g", "●  gate".encode()),
        pytest.param("g.svg", b"<?xml", marks=DRAWN),
        pytest.param("g.png", b"\x89PNG", marks=DRAWN),
    ],
)
def test_the_ending_of_the_output_file_says_what_is_drawn(flow: Shell, name: str, begins: bytes) -> None:
    assert found(flow, "flow.py", "--output", name) == ""
    assert (flow.directory / name).read_bytes().startswith(begins)


def test_the_format_wins_over_the_ending(flow: Shell) -> None:
    found(flow, "flow.py", "--format", "dot", "-o", "g.txt")
    assert (flow.directory / "g.txt").read_text().startswith("digraph")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), exits.USAGE, "either a TARGET or --live ID"),
        (("flow.py", "--live", "flow"), exits.USAGE, "either a TARGET or --live ID"),
        (("flow.py", "--format", "gif"), exits.USAGE, "there is no format 'gif'; there are text, dot"),
        (("flow.py", "-o", "missing/g.dot"), exits.USAGE, "cannot be written to missing/g.dot: No such file"),
        (("--live", "flow"), exits.NOT_RUNNING, "no consecutor 'flow' is running in "),
        (("--live", "../flow"), exits.BAD_DIRECTORY, "cannot be the id of a consecutor"),
        (("flow.py:grap",), exits.BAD_TARGET, "did you mean 'graph'?"),
    ],
)
def test_a_mistake_is_explained_without_a_traceback(flow: Shell, words: tuple[str, ...], code: int, says: str) -> None:
    done = flow.run("graph", *words)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_without_graphviz_an_svg_is_refused_with_advice(flow: Shell) -> None:
    flow.environment["PATH"] = str(flow.directory)
    done = flow.run("graph", "flow.py", "-o", "g.svg")
    assert done.returncode == exits.USAGE
    assert "apt-get install graphviz" in done.stderr
    assert not (flow.directory / "g.svg").exists()


def test_a_graph_with_faults_is_refused_with_all_of_them(flow: Shell) -> None:
    flow.write("bad.py", "from consecutiond import Node\ngraph = Node('a') | Node('b') | Node('b')\n")
    done = flow.run("graph", "bad.py")
    assert done.returncode == exits.BAD_TARGET
    assert "duplicate names" in done.stderr


# --- completion ----------------------------------------------------------------------------------------------


def offered(shell: Shell, line: str) -> list[str]:
    words = line.split(" ")
    shell.environment |= {
        "_CONSECUTIOND_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    return shell.run().stdout.split()


def test_ids_are_completed_from_the_directory_wherever_one_is_asked_for(shell: Shell) -> None:
    for id in ("flow", "flood", "other"):
        (shell.directory / ".consecution" / id).mkdir(parents=True)
        (shell.home(id) / "lock").touch()
    for verb in ("status", "stop", "push", "graph --live"):
        assert offered(shell, f"consecutiond {verb} flo") == ["flood", "flow"], verb
    assert offered(shell, f"consecutiond stop --dir {shell.directory} ") == []
    assert offered(shell, "consecutiond graph flow.py --format s") == ["svg"]
