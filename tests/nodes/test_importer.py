"""Targets: what is loaded, what is said when it cannot be, and how an object's target is found."""

import itertools
import pickle
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import pytest

from consecutiond_nodes import importer
from consecutiond_nodes.errors import GraphError, TargetError
from consecutiond_nodes.graph import Graph
from consecutiond_nodes.node import Node

HEAD = "from consecutiond_nodes.node import Node\nfrom consecutiond_nodes.graph import Graph\n"
ROOT = Path(__file__).parents[2]
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A directory to work in; what a test loads is forgotten after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.fixture
def write(place):
    """Write a module with a name that no other test has; give the name."""

    def written(text, name=None):
        name = name or f"user_{next(_numbers)}"
        (place / f"{name}.py").write_text(HEAD + dedent(text))
        return name

    return written


def failure(target):
    with pytest.raises(TargetError) as caught:
        importer.load(target)
    assert importer.loading is False
    return caught.value


@pytest.mark.parametrize("ending", ["", ".py"])
def test_an_attribute_of_a_module_and_of_a_file(write, ending):
    name = write("one = Node('a') | Node('b')\nclass Holder:\n    inner = one\n")
    assert list(importer.load(f"{name}{ending}:one").nodes) == ["a", "b"]
    assert isinstance(importer.load(f"{name}{ending}:Holder.inner"), Graph)


def test_files_are_found_by_path_and_their_directory_is_on_the_path(place):
    (place / "deep").mkdir()
    (place / "deep" / "helper_of_it.py").write_text("NAME = 'n'\n")
    (place / "deep" / "script.py").write_text(HEAD + "import helper_of_it\ng = Node(helper_of_it.NAME)\n")
    assert importer.load("deep/script.py:g").name == "n"
    assert importer.load(f"{place}/deep/script.py:g").name == "n"
    (place / "deep" / "no_ending").write_text(HEAD + "g = Node('plain')\n")
    assert importer.load("deep/no_ending:g").name == "plain"


def test_modules_in_packages(place):
    (place / "pack_a").mkdir()
    (place / "pack_a" / "__init__.py").write_text("base = 'p'\n")
    (place / "pack_a" / "inner.py").write_text(HEAD + "from . import base\ng = Node(base)\n")
    assert importer.load("pack_a.inner:g").name == "p"
    assert importer.load("pack_a.inner:g") is sys.modules["pack_a"].inner.g


def test_a_module_is_executed_once_and_a_missing_parent_is_said(write):
    name = write("g = Node('a')\n")
    assert importer.load(f"{name}:g") is importer.load(f"{name}:g")
    assert failure(f"{name}.inner:g").user_traceback == ""


def test_main_blocks_do_not_run_and_classes_of_a_file_work(write):
    name = write("""
        import dataclasses
        @dataclasses.dataclass
        class Value:
            size: "int"
        class Own(Node):
            pass
        g = Own("a")
        if __name__ == "__main__":
            raise AssertionError
    """)
    importer.load(f"{name}.py:g")
    value = sys.modules[importer.FILE_MODULE].Value(3)
    assert pickle.loads(pickle.dumps(value)) == value


# --- no attribute


def test_without_an_attribute_the_consecutor_comes_first(write):
    name = write("""
        from types import SimpleNamespace
        part = Node("x") | Node("y")
        runner = same = SimpleNamespace(graph=Node("a") | Node("b"))
    """)
    assert importer.load(f"{name}.py").graph.root.name == "a"


def test_without_an_attribute_the_largest_graph_is_meant(write):
    name = write("""
        a, b, c = Node("a"), Node("b"), Node("c")
        unused = Node("unused")
        part = b | c
        graph = a | part
    """)
    assert list(importer.load(name).nodes) == ["a", "b", "c"]


def test_a_part_made_after_the_whole_is_still_a_part(write):
    name = write("""
        def build():
            a, b, c = Node("a"), Node("b"), Node("c")
            return a | b | c, b | c
        graph, part = build()
    """)
    assert list(importer.load(name).nodes) == ["a", "b", "c"]


def test_a_graph_without_a_name_is_found_by_its_nodes(write):
    name = write("a, b = Node('a'), Node('b')\na | b\n")
    assert list(importer.load(f"{name}.py").nodes) == ["a", "b"]
    assert list(importer.load(write("only = Node('o')\n")).nodes) == ["o"]


def test_several_candidates_are_listed(write):
    name = write("a, b = Node('a'), Node('b')\nmorning = a | Node('c')\nevening = b | Node('d')\n")
    error = failure(f"{name}.py")
    assert f"several candidates: morning, evening; name one, as in {name}.py:morning" in str(error)
    twice = write("""
        from types import SimpleNamespace
        first = SimpleNamespace(graph=Node("a") | Node("b"))
        second = SimpleNamespace(graph=Node("c") | Node("d"))
    """)
    assert "first, second" in str(failure(twice))


def test_a_module_without_a_graph_says_what_to_do(write):
    assert "no graph, no node and no consecutor" in str(failure(write("x = 1\n")))
    hidden = write("if __name__ == '__main__':\n    g = Node('a') | Node('b')\n")
    assert "whose block does not run here" in str(failure(f"{hidden}.py"))


# --- what goes wrong


@pytest.mark.parametrize("target", ["", ":", "a:", ":a", "file.py:"])
def test_half_a_target(target):
    assert "lacks a part" in str(failure(target))


def test_a_missing_file_module_or_attribute_is_said_with_the_nearest_name(write, place):
    name = write("graph = Node('a') | Node('b')\n", "wordcount")
    missing = [
        ("wordcont.py:graph", "did you mean wordcount.py?"),
        ("nowhere/x.py", "there is not even the directory"),
        ("wordcuont:graph", "did you mean wordcount?"),
        ("wordcount:grap", "wordcount has no attribute 'grap'; did you mean 'graph'?"),
        ("wordcount.py:grap", "wordcount.py has no attribute 'grap'; did you mean 'graph'?"),
        ("wordcount.py:graph.nods", "graph in wordcount.py has no attribute 'nods'"),
        ("a..b:c", "there is no module"),
    ]
    assert name == "wordcount"
    for target, said in missing:
        error = failure(target)
        assert said in str(error)
        assert repr(target) in str(error)
        assert error.user_traceback == ""


def test_an_attribute_of_the_main_block_is_explained(write):
    name = write("if __name__ == '__main__':\n    quite_different = 1\n")
    assert "That block does not run here" in str(failure(f"{name}.py:graph"))


@pytest.mark.parametrize("ending", ["", ".py"])
def test_the_users_traceback_is_theirs_alone(write, ending):
    helper = write("def fail():\n    return 1 / 0\n")
    name = write(f"import {helper}\n{helper}.fail()\n")
    error = failure(f"{name}{ending}:graph")
    assert f"{name}{ending}:graph' cannot be loaded: its code raised ZeroDivisionError" in str(error)
    lines = error.user_traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    frames = [line for line in lines if line.startswith("  File")]
    assert [Path(frame.split('"')[1]).stem for frame in frames] == [name, helper]
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert (name if not ending else importer.FILE_MODULE) not in sys.modules


def test_a_missing_import_of_the_user_is_not_a_missing_target(write):
    name = write("import no_such_library_x\n")
    error = failure(f"{name}:graph")
    assert "No module named 'no_such_library_x'" in str(error)
    assert f"{name}.py" in error.user_traceback
    assert "importlib" not in error.user_traceback


def test_chained_errors_keep_their_chain_without_our_frames(write):
    name = write("""
        try:
            Node("a").push(1)
        except Exception as error:
            raise RuntimeError("outer") from error
    """)
    trace = failure(f"{name}.py").user_traceback
    assert "The above exception was the direct cause" in trace
    assert "consecutiond_nodes/" not in trace
    assert "NodeError" in trace


def test_syntax_errors_and_exits(write):
    name = write("def x(:\n")
    error = failure(f"{name}.py:graph")
    assert "SyntaxError" in error.user_traceback
    assert f"{name}.py" in error.user_traceback
    assert "nodes/importer.py" not in error.user_traceback
    assert "SystemExit" in str(failure(write("import sys\nsys.exit(3)\n")))


# --- loading, and scripts without a main block

UNGUARDED = """
    from consecutiond_nodes import importer
    class Runner:
        def __init__(self, graph):
            self.graph = graph
        def up(self):
            if importer.loading:
                raise importer.Loaded(self)
            raise AssertionError("started")
    graph = Node("a") | Node("b")
    Runner(graph).up()
    late = 1
    raise AssertionError("went on")
"""


@pytest.mark.parametrize("ending", ["", ".py"])
def test_loading_stops_where_a_script_would_start_itself(write, ending):
    name = write(UNGUARDED)
    assert list(importer.load(f"{name}{ending}").graph.nodes) == ["a", "b"]
    assert importer.loading is False


@pytest.mark.parametrize("ending", ["", ".py"])
def test_of_a_stopped_script_the_attribute_is_taken_or_else_what_was_found(write, ending):
    graph = importer.load(f"{write(UNGUARDED)}{ending}:graph")
    assert isinstance(graph, Graph)
    found = importer.load(f"{write(UNGUARDED)}{ending}:late")
    assert list(found.graph.nodes) == ["a", "b"]


def test_a_script_whose_helper_module_starts_it(write):
    helper = write(UNGUARDED)
    assert importer.load(f"{write(f'import {helper}')}.py").graph.root.name == "a"


def test_loading_is_true_only_while_the_users_code_runs(write):
    name = write("from consecutiond_nodes import importer\nseen = importer.loading\n")
    assert importer.load(f"{name}.py:seen") is True
    assert importer.loading is False


def test_a_keyboard_interrupt_passes(write):
    name = write("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        importer.load(f"{name}.py")
    assert importer.loading is False


# --- the way back


def test_the_target_of_a_global_of_a_module(write, place):
    name = write("a, b = Node('a'), Node('b')\ngraph = a | b\n")
    graph = importer.load(f"{name}:graph")
    assert importer.find_target(graph) == f"{name}:graph"
    assert importer.find_target(graph.root) == f"{name}:a"
    file = write("graph = Node('a') | Node('b')\n")
    assert importer.find_target(importer.load(f"{file}.py:graph")) == f"{place}/{file}.py:graph"


def test_a_graph_is_found_by_what_stands_for_it(write):
    name = write("a = Node('a')\na | Node('b')\n")
    assert importer.find_target(importer.load(name)) == f"{name}:a"
    held = write("from types import SimpleNamespace\nrunner = SimpleNamespace(graph=Node('a') | Node('b'))\n")
    assert importer.find_target(importer.load(held).graph) == f"{held}:runner"


def test_a_graph_of_one_node_is_found_by_its_node(write):
    name = write("alone, other = Node('alone'), Node('other')\n")
    other = importer.load(f"{name}:other")
    assert importer.find_target(importer.graph_of(other)) == f"{name}:other"


def test_what_is_no_global_has_no_target():
    assert importer.find_target(Node("local") | Node("too")) is None


def test_globals_that_raise_when_touched_do_no_harm(write):
    name = write("""
        class Proxy:
            @property
            def __class__(self):
                raise RuntimeError("not now")
            @property
            def __dict__(self):
                raise RuntimeError("not now")
            @property
            def graph(self):
                raise RuntimeError("not now")
        proxy = Proxy()
        g = Node("a") | Node("b")
    """)
    graph = importer.load(name)
    assert importer.find_target(graph) == f"{name}:g"
    assert importer.find_target(Node("x") | Node("y")) is None


@pytest.mark.parametrize("run", ["script", "module"])
def test_the_target_of_a_script_that_runs(write, place, run):
    """The running script is named by its file, or by its module under -m, and can be loaded by that."""
    name = write("""
        from consecutiond_nodes import importer
        graph = Node("a") | Node("b")
        if __name__ == "__main__":
            print(importer.find_target(graph))
            print(importer.load(importer.find_target(graph)))
    """)
    arguments = [f"{name}.py"] if run == "script" else ["-m", name]
    done = subprocess.run(
        [sys.executable, *arguments], env={"PYTHONPATH": f"{ROOT}/broker:{ROOT}/nodes"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = f"{place}/{name}.py:graph" if run == "script" else f"{name}:graph"
    assert done.stdout.splitlines() == [expected, "●  a", "●  b"]


def test_graph_of():
    graph = Node("a") | Node("b")
    assert importer.graph_of(graph) is importer.graph_of(graph.root) is graph
    assert importer.graph_of(SimpleNamespace(graph=graph)) is graph
    faulty = None | Graph()
    assert importer.graph_of(SimpleNamespace(graph=faulty)) is faulty
    with pytest.raises(GraphError, match="not a node"):
        importer.graph_of(SimpleNamespace(graph=3))
