"""Is everything of Flower's insides still where we touch it? A test for each thing: an upgrade says what broke."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from flwr.common.constant import Status, SubStatus
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore import telemetry
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.retry import http_retry
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.version import package_version
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import HttpGrid
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.router import router as fleet
from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode
from flwr.supernode.nodestate import NodeState
from flwr.supernode.runtime import run_clientapp

from bioface_core.waits import shorten_waits
from client import executor
from server import link


def test_the_version_is_the_one_we_know() -> None:
    assert package_version.startswith("1.41.")


@pytest.mark.parametrize("name", ["pull_objects", "push_objects", "push_object_contents_from_iterable"])
def test_waits_are_keyword_defaults(name: str) -> None:
    shorten_waits()
    defaults = getattr(inflatable_utils, name).__kwdefaults__
    ours = {"initial_backoff": 0.02, "backoff_cap": 0.5, "max_concurrent_pulls": 4, "max_concurrent_pushes": 4}
    changed = {key: value for key, value in defaults.items() if key in ours}
    assert changed and all(ours[key] == value for key, value in changed.items())


def test_the_longest_wait_for_a_connection_is_read_when_it_is_needed() -> None:
    shorten_waits()
    invoker = http_retry.make_simple_http_retry_invoker()
    waits = invoker.wait_gen_factory()
    next(waits)
    assert max(next(waits) for _ in range(20)) <= 2


def test_the_supernode_sleeps_by_its_module() -> None:
    used = set(re.findall(r"\btime\.(\w+)\(", inspect.getsource(start_client_internal)))
    assert "sleep" in used and used <= {"sleep", "time"}, "the stand-in for the module has these two"


def test_the_supernode_knows_our_options() -> None:
    here = Path("x")
    settings = executor.NodeSettings("localhost:1", here, here, here, 2, 3)
    options = _parse_args_run_supernode().parse_args(executor._options(settings))
    assert (options.superlink, options.isolation, options.host, options.port) == (
        "localhost:1",
        "process",
        "127.0.0.1",
        2,
    )
    assert options.health_server_address == "127.0.0.1:3"
    assert not options.insecure and not options.runtime_dependency_install


def test_a_task_is_pulled_and_pushed_by_these_functions() -> None:
    wanted = {"pull_task_input": ["client"], "push_message": ["client", "message", "context"]}
    for name, parameters in wanted.items():
        assert list(inspect.signature(getattr(run_clientapp, name)).parameters) == parameters
    assert "install_from_fab" not in inspect.getsource(run_clientapp.pull_task_input), "the bundle would be unpacked"


@pytest.mark.parametrize(
    ("client", "methods"),
    [
        (ControlHttpClient, ["ListNodes", "RegisterNode", "UnregisterNode", "ListRuns", "StopRun", "StartRun"]),
        (
            RuntimeHttpClient,
            ["AcquireTask", "PullTaskInput", "PushTaskOutput", "PullMessages", "PullObject", "GetNodes"]
            + ["ConfirmMessageReceived"],
        ),
    ],
)
def test_the_clients_have_our_calls(client: Any, methods: list[str]) -> None:
    assert [name for name in methods if not hasattr(client, name)] == []


def test_nodes_say_when_they_were_started_and_with_which_key() -> None:
    assert {"last_activated_at", "public_key", "name", "status"} <= set(NodeInfo.DESCRIPTOR.fields_by_name)
    assert ListNodesRequest()


def test_the_grid_connects_and_pulls_where_we_do_it_otherwise() -> None:
    assert {"_connect", "_runtime_client", "pull_messages", "get_node_ids"} <= set(vars(HttpGrid))
    assert {"_token", "_retry_invoker", "_client", "node"} <= set(vars(HttpGrid("h:1", token="t")))


def test_the_superlink_is_made_from_these_settings() -> None:
    fields = {field.name for field in dataclasses.fields(SuperLinkLifespanConfig)}
    source = inspect.getsource(link._flower_settings)
    assert [name for name in fields if f"{name}=" not in source] == []
    assert list(inspect.signature(create_app).parameters) == ["config", "superlink_lifespan_class"]
    assert hasattr(telemetry, "FLWR_TELEMETRY_ENABLED")


def test_every_path_that_a_node_needs_is_let_through_and_no_other() -> None:
    paths = {str(route.path) for route in fleet.routes}  # type: ignore[attr-defined]
    assert paths - link._NODE_PATHS == {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert paths >= link._NODE_PATHS


def test_the_layers_that_are_left_are_flowers() -> None:
    """Those around a request that we leave out are named as well: a new one is a decision to be made."""
    layers = [link._layer_name(layer) for layer in link._FLOWERS_MIDDLEWARE()]
    kept = [link._layer_name(layer) for layer in link._needed_middleware()]
    assert kept == [layer for layer in layers if layer in kept] and len(kept) == 4
    assert set(layers) - set(kept) == {
        "ControlSensitiveResponseMiddleware",
        "ControlLicenseMiddleware",
        "RuntimeTracingMiddleware",
        "ControlEventLogMiddleware",
        "FleetEventLogMiddleware",
    }


def test_a_node_is_activated_by_its_number_and_heartbeat() -> None:
    parameters = inspect.signature(link._FLOWERS_ACTIVATION).parameters
    assert list(parameters) == ["self", "node_id", "heartbeat_interval"]
    assert "NodeStatus.REGISTERED, NodeStatus.OFFLINE" in inspect.getsource(link._FLOWERS_ACTIVATION)


def test_a_pull_says_nothing_when_the_run_ended_in_between() -> None:
    """And leaves a task behind, which is why it is wrapped: when Flower mends that, the wrapper can go."""
    source = inspect.getsource(start_client_internal._pull_and_store_message)
    orphan = source.partition("except RunNotRunningException")[2]
    assert "finish_task" not in orphan and "return None" in orphan
    assert {"get_tasks", "finish_task"} <= set(dir(NodeState))


def test_uvicorn_takes_signals_where_we_keep_it_from_it() -> None:
    assert hasattr(uvicorn.Server, "capture_signals")


def test_the_words_for_states_are_the_same() -> None:
    assert (Status.FINISHED, SubStatus.COMPLETED, SubStatus.FAILED) == ("finished", "completed", "failed")
