"""What runs for a graph: programs, sockets, and what each part is told; nothing is started here."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consecutiond import Node
from consecutiond.acker.options import AckerOptions
from consecutiond.acker.policies import Policy
from consecutiond.config import ConfigError, Settings
from consecutiond.effective import resolve
from consecutiond.heartoptions import HeartOptions
from consecutiond.plan import OUTPUT_EDGE, Places, Plan, input_edge, make_plan
from consecutiond.planpicture import edges_of, parts_of
from consecutiond_broker.options import BrokerOptions, load_options
from consecutiond_nodes.graph import as_graph
from consecutiond_nodes.worker import EdgeEnd, WorkerOptions


class Step(Node):
    """Passes everything on."""

    def process(self, item: Any) -> None:
        self.push(item)


def workers(name: str, count: int) -> Step:
    node = Step(name)
    node.set_num_workers(count)
    return node


def places(directory: Path) -> Places:
    return Places(
        uri=lambda name: f"ipc:///sockets/{name}", plan=str(directory / "plan.json"), pid_dir="/pids",
        supervisor_socket="/sockets/root", store="sqlite:////log",
    )  # fmt: skip


def plan_of(
    graph: Any, directory: Path, outputs: tuple[str, ...] | None = (), *, local: bool = True,
    settings: Settings | None = None,
) -> Plan:  # fmt: skip
    graph = as_graph(graph)
    return make_plan(graph, settings or resolve({}).settings, "target", outputs, places(directory), local_output=local)


def diamond() -> Any:
    return workers("a", 1) | [workers("b", 2), workers("c", 1)] | workers("d", 3) | workers("e", 1)


def kind_of(part: str) -> type[Any]:
    kinds = {"heart": HeartOptions, "acker": AckerOptions, "broker": BrokerOptions}
    return kinds.get(part.partition("-")[0], WorkerOptions)


def test_there_is_one_program_for_the_heart_the_acker_each_edge_and_each_worker(tmp_path: Path) -> None:
    plan = plan_of(diamond(), tmp_path)
    assert [program.name for program in plan.programs] == [
        "heart", "acker",
        "broker-input-a", "broker-a-b", "broker-a-c", "broker-b-d", "broker-c-d", "broker-d-e",
        "node-a.0", "node-b.0", "node-b.1", "node-c.0", "node-d.0", "node-d.1", "node-d.2", "node-e.0",
    ]  # fmt: skip


def test_a_program_is_this_python_with_the_plan_and_its_own_name(tmp_path: Path) -> None:
    programs = {program.name: program for program in plan_of(diamond(), tmp_path, None, local=False).programs}
    modules = {
        "heart": "consecutiond.supervision.heart", "acker": "consecutiond.acker", "broker-a-b": "consecutiond_broker",
        "node-b.1": "consecutiond_nodes", "output": "consecutiond.output",
    }  # fmt: skip
    for name, module in modules.items():
        assert programs[name].argv == (sys.executable, "-m", module, str(tmp_path / "plan.json"), name)


def test_workers_stop_before_brokers_before_the_acker_before_the_heart(tmp_path: Path) -> None:
    """The root stops the highest number first, and those that are equal together."""
    numbers: dict[str, set[int]] = {}
    for program in plan_of(diamond(), tmp_path, None, local=False).programs:
        numbers.setdefault(program.name.partition("-")[0], set()).add(program.priority)
    assert all(len(same) == 1 for same in numbers.values())
    ranks = {name: same.pop() for name, same in numbers.items()}
    assert ranks["node"] == ranks["output"] > ranks["broker"] > ranks["acker"] > ranks["heart"]


def test_the_root_restarts_the_heart_and_nobody_else(tmp_path: Path) -> None:
    programs = plan_of(diamond(), tmp_path, None, local=False).programs
    assert [program.name for program in programs if program.autorestart] == ["heart"]


def test_every_part_reads_its_own_options_back_from_the_plan_file(tmp_path: Path) -> None:
    plan = plan_of(diamond(), tmp_path, ("x", "y"), local=False)
    file = tmp_path / "plan.json"
    file.write_bytes(plan.to_json())
    assert {program.name for program in plan.programs} == set(plan.parts)
    for name, options in plan.parts.items():
        assert load_options(file, name, kind_of(name)) == options


def test_no_name_is_that_of_two_programs_or_sockets(tmp_path: Path) -> None:
    """With dashes in the names of nodes, a-b->c and a->b-c look alike without their arrows."""
    graph = workers("a", 1) | [workers("b-c", 1), workers("a-b", 1)] | workers("c", 1)
    plan = plan_of(graph, tmp_path, None)
    names = [program.name for program in plan.programs]
    assert len(set(names)) == len(names)
    brokers = [part for part in plan.parts.values() if isinstance(part, BrokerOptions)]
    assert len({broker.uri for broker in brokers}) == len(brokers) == 6


def test_both_ends_of_an_edge_meet_at_its_broker(tmp_path: Path) -> None:
    plan = plan_of(diamond(), tmp_path, None, local=False)
    uris = {part.edge: part.uri for part in plan.parts.values() if isinstance(part, BrokerOptions)}
    seen: dict[str, list[str]] = {}
    for part in plan.parts.values():
        if isinstance(part, WorkerOptions):
            for end in (*part.upstream, *part.downstream.values(), *([part.output] if part.output else [])):
                assert end.uri == uris[end.name]
                seen.setdefault(end.name, []).append(part.worker)
    assert set(seen) == set(uris)
    assert seen["a->b"] == ["a.0", "b.0", "b.1"]
    assert seen["b->d"] == ["b.0", "b.1", "d.0", "d.1", "d.2"]


def test_workers_of_one_node_differ_in_nothing_but_their_names(tmp_path: Path) -> None:
    plan = plan_of(diamond(), tmp_path)
    first, second = plan.parts["node-b.0"], plan.parts["node-b.1"]
    assert (first.part, first.worker, second.part, second.worker) == ("node-b.0", "b.0", "node-b.1", "b.1")
    assert first.node == second.node == "b"
    assert first.upstream == second.upstream
    assert first.downstream == second.downstream == {"d": EdgeEnd("b->d", "ipc:///sockets/edge-b-d")}


def test_a_broadcast_has_an_edge_to_each_and_a_merge_one_from_each(tmp_path: Path) -> None:
    plan = plan_of(diamond(), tmp_path)
    assert set(plan.parts["node-a.0"].downstream) == {"b", "c"}
    assert [end.name for end in plan.parts["node-a.0"].upstream] == ["input->a"]
    assert [end.name for end in plan.parts["node-d.0"].upstream] == ["b->d", "c->d"]
    assert plan.parts["node-e.0"].downstream == {}


def test_reach_names_every_entry_from_which_a_root_can_come_to_an_edge(tmp_path: Path) -> None:
    """The acker retries, when a broker is lost, what has entered there; one too few would be lost."""
    acker = plan_of(diamond(), tmp_path, None).parts["acker"]
    assert {edge: set(entries) for edge, entries in acker.reach.items()} == {
        "input->a": {"input->a"},
        "a->b": {"a->b", "input->a"},
        "a->c": {"a->c", "input->a"},
        "b->d": {"b->d", "a->b", "input->a"},
        "c->d": {"c->d", "a->c", "input->a"},
        "d->e": {"d->e", "b->d", "c->d", "a->b", "a->c", "input->a"},
        OUTPUT_EDGE: {"input->a", "a->b", "a->c", "b->d", "c->d", "d->e", OUTPUT_EDGE},
    }
    assert acker.reach["d->e"][0] == "d->e"


def test_the_acker_knows_where_edges_lead_and_nodes_from_the_top(tmp_path: Path) -> None:
    acker = plan_of(diamond(), tmp_path, None).parts["acker"]
    assert acker.input_edge == input_edge(as_graph(diamond())) == "input->a"
    assert acker.targets == {
        "input->a": "a", "a->b": "b", "a->c": "c", "b->d": "d", "c->d": "d", "d->e": "e", OUTPUT_EDGE: "output",
    }  # fmt: skip
    assert acker.nodes == {
        "a": ("a.0",), "b": ("b.0", "b.1"), "c": ("c.0",), "d": ("d.0", "d.1", "d.2"), "e": ("e.0",),
    }  # fmt: skip
    assert list(acker.nodes) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("local", [True, False])
def test_without_outputs_there_is_no_edge_to_them(tmp_path: Path, local: bool) -> None:
    plan = plan_of(diamond(), tmp_path, (), local=local)
    assert plan.output is None
    assert "output" not in plan.parts
    assert OUTPUT_EDGE not in plan.parts["acker"].targets
    assert all(part.output is None for part in plan.parts.values() if isinstance(part, WorkerOptions))
    assert plan.parts["heart"].local_parts == ()


@pytest.mark.parametrize("outputs", [("x", "y"), None])
def test_the_containers_of_the_calling_process_are_a_part_but_no_program(
    tmp_path: Path, outputs: tuple[str, ...] | None
) -> None:
    """The barrier waits for it, and nobody restarts it."""
    plan = plan_of(diamond(), tmp_path, outputs, local=True)
    assert plan.output is not None
    assert [end.name for end in plan.output.upstream] == [OUTPUT_EDGE]
    assert "output" not in {program.name for program in plan.programs}
    assert "output" in plan.parts["heart"].parts
    assert plan.parts["heart"].local_parts == ("output",)
    assert plan.parts["node-e.0"].outputs == outputs


def test_the_containers_of_a_daemon_are_a_program(tmp_path: Path) -> None:
    plan = plan_of(diamond(), tmp_path, None, local=False)
    assert "output" in {program.name for program in plan.programs}
    assert plan.parts["heart"].local_parts == ()
    assert plan.parts["output"] == plan.output


def test_the_heart_waits_for_every_part_but_itself(tmp_path: Path) -> None:
    plan = plan_of(diamond(), tmp_path, None, local=False)
    assert sorted(plan.parts["heart"].parts) == sorted(name for name in plan.parts if name != "heart")


def test_options_reach_the_parts_that_they_are_about(tmp_path: Path) -> None:
    given = {
        "max_pending": 11, "max_backlog": 2048, "max_attempts": 7, "retry_backoff_s": 0.5, "retry_backoff_max_s": 9.0,
        "durability": "fast", "batch_items": 12, "batch_s": 0.3, "batch_bytes": 4096, "max_message": 1 << 17,
        "worker_window": 5, "edge_window": 6, "heartbeat_s": 0.25, "start_timeout_s": 3.0, "stop_timeout_s": 4.0,
    }  # fmt: skip
    parts = plan_of(diamond(), tmp_path, settings=resolve(given).settings).parts
    heart, acker, broker, worker = parts["heart"], parts["acker"], parts["broker-a-b"], parts["node-a.0"]
    assert (heart.start_timeout_s, heart.stop_timeout_s) == (3.0, 4.0)
    assert (acker.max_pending, acker.max_backlog, acker.durability) == (11, 2048, "fast")
    assert acker.policies.default == Policy(max_attempts=7, backoff_s=0.5, backoff_max_s=9.0)
    assert (worker.batch_items, worker.batch_s, worker.batch_bytes, worker.window) == (12, 0.3, 4096, 5)
    assert (broker.window, worker.max_message) == (6, 1 << 17)
    assert {part.heartbeat_s for part in (acker, broker, worker)} == {0.25}
    # A message holds a value of the greatest size and what goes with it.
    assert acker.max_message == broker.max_message > worker.max_message


@pytest.mark.parametrize(("given", "carried"), [(0, 0.0), (90.5, 90.5), ("inf", None)])
def test_how_long_inputs_are_kept_reaches_the_acker_through_the_plan_file(
    tmp_path: Path, given: object, carried: float | None
) -> None:
    """JSON has no infinity."""
    plan = plan_of(diamond(), tmp_path, settings=resolve({"retain_s": given}).settings)
    acker = msgspec.json.decode(plan.to_json())["parts"]["acker"]
    assert msgspec.convert(acker, AckerOptions).retain_s == carried


def test_a_graph_of_one_node_is_a_graph(tmp_path: Path) -> None:
    plan = plan_of(workers("only", 1), tmp_path)
    assert [program.name for program in plan.programs] == ["heart", "acker", "broker-input-only", "node-only.0"]


def far(name: str, count: int = 1) -> Step:
    node = workers(name, count)
    node.connect_with(remote=True)
    return node


def remote_plan(graph: Any, directory: Path, uri: str = "tcp://10.0.0.1:7000", **options: Any) -> Plan:
    settings = resolve({"remote_uri": uri, **options}).settings
    return plan_of(graph, directory, None, local=False, settings=settings)


def test_workers_of_a_remote_node_are_waited_for_and_not_started_here(tmp_path: Path) -> None:
    plan = remote_plan(workers("a", 1) | far("b", 2) | workers("c", 1), tmp_path)
    names = {program.name for program in plan.programs}
    heart = plan.parts["heart"]
    assert {"node-b.0", "node-b.1"} <= set(heart.parts) == (names - {"heart"}) | set(heart.door.workers)
    assert set(heart.door.workers) == {"node-b.0", "node-b.1"}
    assert heart.door.commands["node-b.1"] == "consecutiond worker target b --connect connection.json"


def test_a_remote_worker_gets_addresses_that_other_machines_reach_in_the_ports_above_remote_uri(tmp_path: Path) -> None:
    plan = remote_plan(workers("a", 1) | far("b") | workers("c", 1) | workers("d", 1), tmp_path)
    options = plan.parts["heart"].door.workers["node-b.0"]
    addresses = [f"tcp://10.0.0.1:{port}" for port in range(7000, 7005)]
    assert [
        options["heart_uri"], options["acker_uri"], options["upstream"][0]["uri"], options["downstream"]["c"]["uri"],
        options["output"]["uri"],
    ] == addresses  # fmt: skip
    listening = [plan.parts[name].listen for name in ("acker", "broker-a-b", "broker-b-c", "broker-any-output")]
    assert [plan.parts["heart"].door.listen.uri, *(each.uri for each in listening)] == addresses
    for name in ("broker-input-a", "broker-c-d"):
        assert plan.parts[name].listen is None
    assert plan.parts["broker-a-b"].uri == plan.parts["node-a.0"].downstream["b"].uri == "ipc:///sockets/edge-a-b"


def test_an_edge_listens_at_the_uri_that_a_node_gives_it(tmp_path: Path) -> None:
    b = far("b")
    b.connect_with("tcp://10.0.0.1:9000")
    c = workers("c", 1)
    c.connect_with(downstream_uri="ipc:///run/cd.sock")
    plan = remote_plan(workers("a", 1) | b | c | workers("d", 1), tmp_path)
    assert plan.parts["broker-a-b"].listen.uri == "tcp://10.0.0.1:9000"
    assert plan.parts["broker-b-c"].listen.uri == "tcp://10.0.0.1:7002"
    uris = {plan.parts[name].uri for name in ("broker-c-d",)} | {plan.parts["node-c.0"].downstream["d"].uri}
    assert uris == {plan.parts["node-d.0"].upstream[0].uri} == {"ipc:///run/cd.sock"}
    shown = edges_of(parts_of(plan.to_json()))
    assert [shown[name] for name in ("a->b", "b->c", "c->d")] == [
        "tcp://10.0.0.1:9000", "tcp://10.0.0.1:7002", "ipc:///run/cd.sock",
    ]  # fmt: skip


@pytest.mark.parametrize(("uri", "keys"), [("tcp://10.0.0.1:7000", "keys"), ("tcp://localhost:7000", "")])
def test_keys_are_used_where_other_machines_can_listen_in(tmp_path: Path, uri: str, keys: str) -> None:
    given = msgspec.structs.replace(places(tmp_path), keys="keys")
    settings = resolve({"remote_uri": uri}).settings
    plan = make_plan(as_graph(workers("a", 1) | far("b")), settings, "target", None, given, local_output=False)
    assert plan.parts["acker"].listen.keys == plan.parts["heart"].door.listen.keys == keys


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"remote_uri": ""}, "remote_uri is not set, and b run on other machines"),
        ({"architecture": "thread"}, "architecture = thread keeps everything in one process"),
        ({"tracking": False}, "tracking = false has no remote nodes"),
        ({"remote_uri": "tcp://10.0.0.1:65534"}, "port 65536 is needed too, and is beyond the last port"),
        ({"remote_uri": "tcp://10.0.0.1:8999"}, "port 9000 is needed too, and is the uri of a->b"),
    ],
)
def test_what_does_not_go_together_with_remote_nodes_says_so(tmp_path: Path, options: Any, says: str) -> None:
    b = far("b")
    b.connect_with("tcp://10.0.0.1:9000")
    with pytest.raises(ConfigError, match=says):
        plan_of(
            workers("a", 1) | b, tmp_path, None,
            settings=resolve({"remote_uri": "tcp://10.0.0.1:7000", **options}).settings,
        )  # fmt: skip


@pytest.mark.parametrize("uri", ["ipc:///x", "tcp://*:7000", "here"])
def test_remote_uri_is_an_address_that_others_reach(uri: str) -> None:
    with pytest.raises(ConfigError, match="remote_uri"):
        resolve({"remote_uri": uri})
