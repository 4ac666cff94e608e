"""Graphs that travel by value, and which graphs have to."""

import copy
import os
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent

import pytest

from consecutiond_nodes import importer, shipping
from consecutiond_nodes.errors import TargetError
from consecutiond_nodes.graph import Node

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": f"{ROOT}/broker:{ROOT}/nodes", "PATH": os.environ["PATH"]}


def script(directory, text):
    file = directory / "script.py"
    file.write_text("from consecutiond_nodes import importer, shipping\nfrom consecutiond_nodes.graph import Node\n")
    with file.open("a") as out:
        out.write(dedent(text))
    return file


def python(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout


def local_graph():
    factor = 3

    class Local(Node):
        def process(self, value):
            self.push(value * factor)

    return Local("a") | [Node("b"), Node("c"), lambda value: "b" if value else "c"]


def test_a_graph_of_local_classes_and_lambdas_travels_to_another_process(tmp_path):
    graph = local_graph()
    (tmp_path / "graph").write_bytes(shipping.pack(graph))
    code = f"""
from consecutiond_nodes import importer
graph = importer.load("shipped:{tmp_path}/graph")
pushed = []
graph["a"].bind(pushed.append, None, None)
graph["a"].process(5)
print(pushed, graph.outlets("a")[0].router(0), *graph.edges, sep="|")
graph.validate()
"""
    expected = "[15]|c|" + "|".join(map(str, graph.edges)) + "\n"
    assert python("-c", code) == expected


def test_a_class_of_a_script_travels_by_value_and_its_main_block_does_not_run_again(tmp_path):
    file = script(
        tmp_path,
        f"""
        LIMIT = 7

        class Limited(Node):
            def process(self, value):
                self.push(min(value, LIMIT))

        if __name__ == "__main__":
            print("main")
            graph = Limited("a") | Node("b")
            assert importer.find_target(graph) is None
            open({str(tmp_path / "graph")!r}, "wb").write(shipping.pack(graph))
        """,
    )
    assert python(file) == "main\n"
    code = f"""
from consecutiond_nodes import importer
node, pushed = importer.load("shipped:{tmp_path}/graph")["a"], []
node.bind(pushed.append, None, None)
node.process(100)
print(pushed)
"""
    assert python("-c", code) == "[7]\n"


def test_what_cannot_travel_is_said_with_what_to_do():
    graph = Node("a") | Node("b")
    graph["a"].lock = threading.Lock()
    with pytest.raises(TargetError, match=r"(?s)cannot travel .*lock.*top level.*begin"):
        shipping.pack(graph)


def test_a_file_that_others_may_write_is_not_loaded(tmp_path):
    file = tmp_path / "graph"
    file.write_bytes(shipping.pack(local_graph()))
    file.chmod(0o666)
    with pytest.raises(TargetError, match="not a file of this user alone"):
        importer.load(f"shipped:{file}")


def test_a_copy_of_a_graph_has_nodes_of_its_own_and_the_same_arrows():
    graph = local_graph()
    again = copy.deepcopy(graph)
    assert again["a"] is not graph["a"]
    assert again.edges == graph.edges
    assert str(again) == str(graph)
    again.validate()


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("graph = Node('a') | Node('b')\nfind(graph)", ":graph"),
        ("if True:\n    graph = Node('a') | Node('b')\nfind(graph)", ":graph"),
        ("with open(__file__) as f:\n    (graph, g2) = Node('a') | Node('b'), 1\nfind(graph)", ":graph"),
        ("if __name__ == '__main__':\n    graph = Node('a') | Node('b')\n    find(graph)", ""),
        ("if '__main__' == __name__:\n    graph = Node('a') | Node('b')\n    find(graph)", ""),
        ("if __name__ != 'x__main__':\n    graph = Node('a') | Node('b')\nfind(graph)", ":graph"),
        ("def main():\n    graph = Node('a') | Node('b')\n    find(graph)\nmain()", ""),
        ("def main():\n    global graph\n    graph = Node('a') | Node('b')\n    find(graph)\nmain()", ""),
        ("globals()['graph'] = Node('a') | Node('b')\nfind(globals()['graph'])", ""),
        (
            "class H:\n    def __init__(self, graph): self.graph = graph\n"
            "graph = Node('a') | Node('b')\nif __name__ == '__main__':\n    a = H(graph)\n    find(graph)",
            ":graph",
        ),
    ],
)
def test_only_what_an_import_binds_is_a_target(tmp_path, text, target):
    file = script(tmp_path, "find = lambda graph: print(importer.find_target(graph))\n" + text)
    assert python(file) == (f"{file}{target}\n" if target else "None\n")
