"""Every kind of bad input: one clear error, the right exit code, nothing lost, nothing left running."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from consecutiond import Consecutor
from consecutiond.cli import exits
from consecutiond.consecutor import StateError
from consecutiond.rundir import LiveError, RunDirError
from consecutiond_broker.errors import CodecError
from consecutiond_nodes.errors import GraphError
from tests.system.shell import CAPITALS, Shell, both_architectures, living, logged, make, wait_for

#: a node that does with each value what the value says
OBEDIENT = """
    import socket
    from consecutiond import Node

    class Obey(Node):
        def process(self, order):
            if order == "push":
                self.push(socket.socket())
            elif order == "write":
                self.write("out", {"inside": [socket.socket()]})
            elif order == "elsewhere":
                self.write("output", order)
            else:
                self.push(order)

    class Keep(Node):
        def process(self, value):
            self.write("out", value)

    graph = Obey("obey") | Keep("keep")
"""


def refused(shell: Shell, code: int, *words: object) -> str:
    """Type a command that cannot work; return the text of its one error."""
    done = shell.run(*words, stdin="x\n")
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("consecutiond: error: ") == 1
    assert not shell.living()
    return done.stderr


# --- graph and target ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [("run",), ("start",), ("start", "--detach")])
def test_all_faults_of_a_graph_come_in_one_error_before_anything_is_made(shell: Shell, verb: tuple[str, ...]) -> None:
    shell.write("flow.py", 'from consecutiond import Node\ngraph = Node("a") | [Node("b"), Node("b")] | []\n')
    text = refused(shell, exits.BAD_TARGET, verb[0], "flow.py", *verb[1:])
    assert "the graph has 2 faults:" in text
    assert "an empty list leads nowhere" in text
    assert "have the name 'b'" in text
    assert text.count("wrong: ") == text.count("right: ") == 2
    assert "Traceback" not in text
    assert not shell.home("flow").exists()


def test_a_graph_with_faults_is_refused_where_the_consecutor_is_made(shell: Shell) -> None:
    with pytest.raises(GraphError, match="an empty list"):
        make(shell.directory, 'from consecutiond import Node\ngraph = Node("a") | []\n')


@pytest.mark.parametrize("verb", [("run",), ("start", "--detach")])
def test_a_target_that_raises_shows_the_users_traceback_and_none_of_ours(shell: Shell, verb: tuple[str, ...]) -> None:
    shell.write("flow.py", "import helper\n")
    shell.write("helper.py", "def setting():\n    return {}['missing']\n\nsetting()\n")
    text = refused(shell, exits.BAD_TARGET, verb[0], "flow.py:graph", *verb[1:])
    here = re.escape(str(shell.directory))
    assert re.match(
        rf'Traceback \(most recent call last\):\n  File "{here}/flow.py", line 1, in <module>\n    import helper\n'
        rf'  File "{here}/helper.py", line 4, in <module>\n',
        text,
    )
    assert set(re.findall(r'File "(.*)/\w+\.py"', text)) == {str(shell.directory)}
    assert text.endswith("cannot be loaded: its code raised KeyError: 'missing'\n")
    assert not shell.home("flow").exists()


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("flow.py:grap", "did you mean 'graph'?"),
        ("flwo.py", "did you mean flow.py?"),
        ("nothing_of_that_name:graph", "there is no module 'nothing_of_that_name'"),
        ("flow.py:", "write module:attribute or file.py:attribute"),
        ("flow.py:Up", "Up"),
    ],
)
def test_a_target_that_is_not_there_is_an_error_without_a_traceback(shell: Shell, target: str, hint: str) -> None:
    shell.write("flow.py", CAPITALS)
    text = refused(shell, exits.BAD_TARGET, "run", target)
    assert hint in text
    assert "Traceback" not in text


@both_architectures
def test_wrong_options_come_in_one_error(shell: Shell) -> None:
    shell.write("flow.py", CAPITALS)
    shell.environment |= {"CONSECUTIOND_MAX_PENDING": "many"}
    text = refused(shell, exits.BAD_TARGET, "run", "flow.py", "--durability", "eternal")
    assert "durab" in text
    assert "eternal" in text
    assert "many" in text
    assert not shell.home("flow").exists()


# --- values --------------------------------------------------------------------------------------------------


@both_architectures
def test_a_value_that_cannot_be_carried_fails_its_item_with_node_and_type_and_the_others_complete(shell: Shell) -> None:
    shell.write("flow.py", OBEDIENT)
    done = shell.run("run", "flow.py", stdin="a\npush\nb\nwrite\nc\n")
    assert done.returncode == exits.SOME_FAILED
    assert sorted(done.stdout.splitlines()) == [f'out\t"{text}"' for text in "abc"]
    assert "failed in node obey (unserialisable): node obey pushed socket.socket, which msgpack cannot" in done.stderr
    assert "(unserialisable): node obey wrote to the output 'out' dict, which msgpack cannot carry: " in done.stderr
    assert "Encoding objects of type socket is unsupported" in done.stderr
    assert "5 accepted = 3 completed + 2 failed and kept + 0 open" in done.stderr
    assert not shell.living()


@both_architectures
def test_an_unknown_output_fails_its_item_with_the_line_that_wrote_to_it(shell: Shell) -> None:
    own = 'from consecutiond import Consecutor\n    c = Consecutor(graph)\n    c.register_output("out", [])\n'
    shell.write("flow.py", f"{OBEDIENT}\n    {own}")
    done = shell.run("run", "flow.py", stdin="a\nelsewhere\n")
    assert (done.returncode, done.stdout) == (exits.SOME_FAILED, 'out\t"a"\n')
    assert "node obey wrote to the output 'output', which is not registered (registered: out)" in done.stderr
    assert 'self.write("output", order)' in done.stderr
    assert set(re.findall(r'File "(.*)/\w+\.py"', done.stderr)) == {str(shell.directory)}
    assert "2 accepted = 1 completed + 1 failed and kept + 0 open" in done.stderr


class Unknown:
    """Of a type that no codec knows."""


@both_architectures
@pytest.mark.parametrize("place", [0, 3, 5000])
def test_a_value_of_the_iterable_that_cannot_be_carried_is_named_by_its_number(tmp_path: Path, place: int) -> None:
    """Everything before it is accepted and completed; nothing after it is."""
    consecutor, out = make(tmp_path, OBEDIENT)
    values: list[Any] = [*range(place), Unknown(), "after"]
    with pytest.raises(CodecError, match=rf"value number {place + 1} is .*Unknown, which msgpack cannot carry"):
        consecutor.produce_from_iterable(values)
    assert sorted(out) == list(range(place))
    assert logged(tmp_path / "base" / "it") == {"accepted": place, "completed": place, "failed": 0, "open": 0}
    assert not living(tmp_path)


@both_architectures
def test_a_pushed_value_that_cannot_be_carried_is_not_accepted_and_the_next_one_is(tmp_path: Path) -> None:
    consecutor, out = make(tmp_path, OBEDIENT)
    with consecutor:
        with pytest.raises(CodecError, match="Unknown, which msgpack cannot carry"):
            consecutor.push(Unknown())
        with pytest.raises(CodecError, match=r"number 2 is .*Unknown"):
            consecutor.push_many(["first", Unknown()])
        consecutor.push("good")
    assert out == ["good"]
    assert logged(tmp_path / "base" / "it")["accepted"] == 1


@both_architectures
def test_a_value_beyond_the_largest_message_is_refused_with_its_size(tmp_path: Path) -> None:
    consecutor, out = make(tmp_path, OBEDIENT, max_message=1 << 16)
    with consecutor:
        with pytest.raises(CodecError, match=r"takes 70,00. bytes, more than max_message = 65,536"):
            consecutor.push("x" * 70_000)
        consecutor.push("small")
    assert out == ["small"]


# --- directory and id ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none", "/dev/null"])
@pytest.mark.parametrize("verb", [("run",), ("start", "--detach")])
def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(
    shell: Shell, verb: tuple[str, ...], place: str
) -> None:
    """Things that fail for the superuser, too."""
    shell.write("flow.py", CAPITALS)
    shell.write("file", "in the way")
    text = refused(shell, exits.BAD_DIRECTORY, verb[0], "flow.py", "--dir", place, *verb[1:])
    assert f"{place}/flow" in text
    assert "choose another place with --dir" in text


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs to become another user")
def test_a_directory_that_another_user_may_not_write_to_is_an_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As a user without rights, in a directory that belongs to the superuser."""
    place = Path("/tmp") / f"{tmp_path_factory.mktemp('open').name}-{os.getpid()}"
    place.mkdir(mode=0o755)
    try:
        shell = Shell(place)
        shell.write("flow.py", CAPITALS)
        become = ["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups"]
        done = subprocess.run(
            [*become, *shell.argv("run", "flow.py")], cwd=place, env=shell.environment, input="x\n",
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == exits.BAD_DIRECTORY, done.stderr
        assert f"cannot make the consecutor's directory {place}/.consecution/flow: Permission denied" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("id", ["a/b", "../up", "/etc", "a b", ".hidden"])
def test_an_id_with_a_slash_or_the_like_is_refused_by_every_verb(shell: Shell, id: str) -> None:
    shell.write("flow.py", CAPITALS)
    before = sorted(path.name for path in shell.directory.rglob("*"))
    for words in (("run", "flow.py", "--id", id), ("start", "flow.py", "--id", id), ("status", id), ("stop", id)):
        text = refused(shell, exits.BAD_DIRECTORY, *words)
        assert f"{id!r} cannot be the id of a consecutor" in text
        assert "Try for example 'wordcount'" in text
    assert sorted(path.name for path in shell.directory.rglob("*")) == before


def test_a_live_consecutor_with_the_same_id_is_refused_and_not_disturbed(shell: Shell) -> None:
    """By `run`, `start` and a script; the living one keeps its sockets and loses nothing."""
    shell.write("flow.py", CAPITALS)
    assert shell.run("start", "flow.py", "--detach").returncode == exits.OK
    living_before = shell.living()
    sockets = sorted((shell.home("flow") / "socket_files").iterdir())
    for words in (("run", "flow.py"), ("start", "flow.py"), ("start", "flow.py", "--detach")):
        done = shell.run(*words, stdin="x\n")
        assert done.returncode == exits.BAD_DIRECTORY
        assert re.search(r"error: there is a live consecutor with id flow \(pid \d+, since 2", done.stderr)
        assert "`consecutiond stop flow`" in done.stderr
        assert "Traceback" not in done.stderr
    consecutor, _ = make(shell.directory, CAPITALS, id="flow")
    consecutor.options["dir"] = shell.directory / ".consecution"
    with pytest.raises(LiveError):
        Consecutor(consecutor.graph, target=consecutor.target, **consecutor.options).up()
    assert shell.living() == living_before
    assert sorted((shell.home("flow") / "socket_files").iterdir()) == sockets
    assert shell.run("push", "flow", stdin="y\n").returncode == exits.OK
    assert shell.run("stop", "flow").returncode == exits.OK
    assert shell.written("flow", "capitals") == ["Y"]
    assert not shell.living()


def test_a_directory_so_long_that_socket_paths_pass_107_bytes_simply_works(shell: Shell) -> None:
    """For a script, a run and a daemon; the short links are gone at the end."""
    shell.write("flow.py", CAPITALS)
    long = shell.directory / ("d" * 200)
    links = Path(f"/tmp/consecutiond-{os.geteuid()}")
    ours = lambda: [link for link in links.glob("*") if str(long) in os.readlink(link)]  # noqa: E731
    done = shell.run("run", "flow.py", "--dir", long, stdin="x\n")
    assert (done.returncode, done.stdout) == (exits.OK, 'capitals\t"X"\n')
    assert shell.run("start", "flow.py", "--dir", long, "--detach").returncode == exits.OK
    assert ours()
    assert shell.run("push", "flow", "--dir", long, stdin="y\n").returncode == exits.OK
    assert shell.run("status", "flow", "--dir", long).returncode == exits.OK
    assert shell.run("stop", "flow", "--dir", long).returncode == exits.OK
    assert (long / "flow" / "output_files" / "capitals.jsonl").read_text() == '"Y"\n'
    assert not shell.living()
    assert ours() == []


@both_architectures
def test_a_store_that_cannot_be_opened_is_an_error_and_is_left_as_it_is(shell: Shell) -> None:
    shell.write("flow.py", CAPITALS)
    shell.home("flow").mkdir(parents=True, mode=0o700)
    store = shell.home("flow") / "acker_db.sqlite"
    store.write_text("not a database, but something of value\n" * 100)
    text = refused(shell, exits.START_FAILED, "run", "flow.py")
    assert "acker could not start" in text
    assert "not a database" in text
    assert str(store) in text
    assert store.read_text() == "not a database, but something of value\n" * 100


# --- misuse of the consecutor --------------------------------------------------------------------------------


def test_a_container_without_append_is_refused(tmp_path: Path) -> None:
    consecutor, _ = make(tmp_path, CAPITALS)
    with pytest.raises(TypeError, match=r"a method append\(value\)"):
        consecutor.register_output("bad", {})  # type: ignore[arg-type]


@both_architectures
def test_methods_called_at_the_wrong_time_say_so_and_change_nothing(tmp_path: Path) -> None:
    """`push` before `up`, `up` twice, `down` twice, outputs after `up`."""
    consecutor, out = make(tmp_path, OBEDIENT)
    for early in (lambda: consecutor.push(1), lambda: consecutor.push_many([1]), consecutor.down, consecutor.status):
        with pytest.raises(StateError, match=r"call up\(\) first"):
            early()
    consecutor.up()
    with pytest.raises(StateError, match="was called twice"):
        consecutor.up()
    with pytest.raises(StateError, match="register outputs before the start"):
        consecutor.register_output("late", [])
    consecutor.append("value")
    summary = consecutor.down()
    assert (summary.accepted, summary.completed) == (1, 1)
    assert out == ["value"]
    with pytest.raises(StateError, match=r"call up\(\) first"):
        consecutor.down()
    assert consecutor.last == summary
    assert not living(tmp_path)


@both_architectures
def test_an_iterable_that_raises_half_way_lets_what_was_accepted_finish_and_its_own_error_out(tmp_path: Path) -> None:
    def values() -> Any:
        yield from range(100)
        raise LookupError("the source broke")

    consecutor, out = make(tmp_path, OBEDIENT)
    with pytest.raises(LookupError, match="the source broke"):
        consecutor.produce_from_iterable(values())
    assert sorted(out) == list(range(100))
    assert logged(tmp_path / "base" / "it") == {"accepted": 100, "completed": 100, "failed": 0, "open": 0}
    assert not living(tmp_path)


@both_architectures
def test_an_error_inside_the_with_block_lets_what_was_accepted_finish_and_comes_out(tmp_path: Path) -> None:
    consecutor, out = make(tmp_path, OBEDIENT)

    def use() -> None:
        with consecutor:
            consecutor.push("accepted")
            raise LookupError

    with pytest.raises(LookupError):
        use()
    assert out == ["accepted"]
    assert consecutor.last is not None
    assert consecutor.last.completed == 1
    assert not living(tmp_path)


@both_architectures
def test_a_consecutor_can_be_used_again_after_a_start_that_failed(tmp_path: Path) -> None:
    consecutor, out = make(tmp_path, OBEDIENT)
    base = tmp_path / "base"
    base.write_text("in the way")
    with pytest.raises(RunDirError, match="choose another place"):
        consecutor.up()
    base.unlink()
    with consecutor:
        consecutor.push("value")
    assert out == ["value"]
    wait_for(lambda: not living(tmp_path), "the end")
