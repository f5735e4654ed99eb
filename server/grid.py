"""How do the lab's own processes talk to the SuperLink? As its administrator, and as the ServerApp that runs a study.

Everything goes to the administration listener on loopback, over TLS, with the secret that the listener asks for. What
is touched of Flower's insides (1.41) is touched here and in ``server/link.py``.
"""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
from flwr.app import Array, Context, Error, Message
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode, Status, SubStatus
from flwr.common.serde import context_from_proto, context_to_proto, message_from_proto, run_from_proto
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    GetNodesRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
)
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, inflate_object_from_contents, pull_objects
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from bioface_core.errors import RoundError
from bioface_core.messages import Code, demand
from bioface_core.waits import shorten_waits
from bioface_core.wire import fold, unfold
from server.link import ADMIN_HEADER

_log = logging.getLogger("bioface.grid")
_SERVER_APP = "flwr-serverapp"
_LARGEST_REPLY = 2**29  # bytes of arrays; of what a hospital says before we know whether it may say it
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


@dataclass(frozen=True)
class AdminAddress:
    """Where the administration listener is, and what it asks for.

    Attributes:
        address: host and port.
        authority: the CA's certificate, PEM.
        secret: file of the secret.
    """

    address: str
    authority: Path
    secret: Path


class Admin:
    """The administrator's end of the SuperLink. Every call raises ``httpx.HTTPError`` while the SuperLink is down."""

    def __init__(self, where: AdminAddress) -> None:
        self._client = ControlHttpClient(
            f"https://{where.address}",
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _AdminSecret(where)],
            verify=ssl.create_default_context(cafile=str(where.authority)),
            timeout=5.0,
        )

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def nodes(self) -> dict[bytes, NodeInfo]:
        """The registered nodes by public key."""
        listed = self._client.ListNodes(ListNodesRequest()).nodes_info
        return {bytes(node.public_key): node for node in listed if node.status != NodeStatus.UNREGISTERED}

    def register(self, public_key: bytes, name: str) -> None:
        """Lets a node in."""
        self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))

    def unregister(self, node_id: int) -> None:
        """Shuts a node out, from its next request on."""
        self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def stop_runs(self) -> None:
        """Ends whatever earlier ServerApps left running."""
        for run_id, run in self._client.ListRuns(ListRunsRequest()).run_dict.items():
            if run.status.status != Status.FINISHED:
                self._client.StopRun(StopRunRequest(run_id=run_id))

    def start_run(self, bundle: bytes, bundle_sha256: str) -> int:
        """Submits a run of the bundle; whoever acquires the ServerApp's task runs it."""
        request = StartRunRequest(fab=Fab(hash_str=bundle_sha256, content=bundle))
        return int(self._client.StartRun(request).run_id)


class LinkGrid(HttpGrid):
    """Flower's grid, with replies handed on one by one, so that memory holds one of them however many there are."""

    def __init__(self, where: AdminAddress, token: str) -> None:
        super().__init__(where.address, root_certificates=where.authority.read_bytes(), token=token)
        self._where = where

    def _connect(self) -> None:
        task = RuntimeTokenHttpInterceptor(self._token)
        self._client = _runtime_client(self._where, [task], self._retry_invoker)

    def activations(self) -> dict[int, str]:
        """The connected nodes, each with the time at which it was last started."""
        nodes = self._runtime_client.GetNodes(GetNodesRequest()).nodes
        return {node.node_id: node.last_activated_at for node in nodes}

    def get_node_ids(self) -> list[int]:
        """The connected nodes."""
        return list(self.activations())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Sends messages, folded."""
        folded = list(messages)
        for message in folded:
            message.content = fold(message.content)
        return list(super().push_messages(folded))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The replies that are there, each fetched when the caller comes to it."""
        request = PullAppMessagesRequest(message_ids=list(message_ids))
        found = self._runtime_client.PullMessages(request)
        for proto, tree in zip(found.messages_list, found.message_object_trees, strict=True):
            yield self._fetch(proto, tree)

    def _fetch(self, proto: ProtoMessage, tree: ObjectTree) -> Message:
        """One whole reply; an error reply if its sender never finished sending it."""
        identity, run_id = proto.metadata.message_id, self.run.run_id
        pull = make_pull_object_fn_protobuf(self._runtime_client.PullObject, self.node, run_id)
        try:
            contents = pull_objects([part.object_id for part in iterate_object_tree(tree)], pull)
        except ObjectPullError as error:
            _log.warning("a reply never came whole: %s", error)
            return _never_came(proto)
        received = ConfirmMessageReceivedRequest(node=self.node, run_id=run_id, message_object_id=identity)
        self._runtime_client.ConfirmMessageReceived(received)
        return _read(proto, contents)


@contextmanager
def server_task(where: AdminAddress, bundle: bytes, bundle_sha256: str) -> Iterator[tuple[LinkGrid, Context]]:
    """Submits a run and takes its ServerApp's task; on leaving, the run has ended as the block did.

    Raises:
        RoundError: the SuperLink gave the task to somebody else.
    """
    shorten_waits()
    admin = Admin(where)
    admin.stop_runs()
    run_id = admin.start_run(bundle, bundle_sha256)
    admin.close()
    grid = LinkGrid(where, _acquire(where))
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(grid._runtime_client))
    heartbeat.start()
    context, sub_status = None, SubStatus.FAILED
    try:
        context = _take(grid, run_id)
        yield grid, context
        sub_status = SubStatus.COMPLETED
    finally:
        _give_back(grid, context, sub_status)
        heartbeat.stop()
        grid.close()


def _acquire(where: AdminAddress) -> str:
    """The token of the oldest waiting ServerApp task: ours, for every other was stopped."""
    secret = SuperExecAuthHttpInterceptor(master_secret=where.secret.read_bytes(), protected_methods={_ACQUIRE})
    client = _runtime_client(where, [secret])
    token = client.AcquireTask(AcquireTaskRequest(supported_task_types=[_SERVER_APP])).token
    client.close()
    if not token:
        raise RoundError("the SuperLink has no task for the ServerApp: is another `bioface lab serve` running?")
    return str(token)


def _take(grid: LinkGrid, run_id: int) -> Context:
    """The task's context, and the grid told which run it is of."""
    task = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
    if task.run.run_id != run_id:
        raise RoundError("the SuperLink gave the task of another run: start again")
    TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
    TaskIdentity.node_id = task.context.node_id
    grid.set_run(run_from_proto(task.run))
    return context_from_proto(task.context)


def _give_back(grid: LinkGrid, context: Context | None, sub_status: str) -> None:
    """Tells the SuperLink how it ended; the reason stays in our log."""
    output = PushTaskOutputRequest(
        context=None if context is None else context_to_proto(context), sub_status=sub_status, details=""
    )
    grid._retry_invoker.max_tries = 1
    try:
        grid._runtime_client.PushTaskOutput(output)
    except httpx.HTTPError as error:
        _log.warning("the SuperLink was not told how the run ended (%s)", type(error).__name__)


def _read(proto: ProtoMessage, contents: dict[str, bytes]) -> Message:
    """A message from its objects, with the metadata that the SuperLink has checked, not those that the sender wrote."""
    try:
        demand(_size_of_arrays(contents) <= _LARGEST_REPLY, Code.LENGTH)
        message = cast(Message, inflate_object_from_contents(proto.metadata.message_id, contents))
        metadata = metadata_from_proto(proto.metadata)
        if message.has_error():
            return make_message(metadata, error=message.error)
        return make_message(metadata, content=unfold(message.content))
    except Exception as error:  # of many kinds: whatever Flower raises on what it cannot read
        _log.warning("a reply cannot be read (%s)", type(error).__name__)
        return make_message(metadata_from_proto(proto.metadata), error=Error(ErrorCode.UNKNOWN, Code.MALFORMED.value))


def _size_of_arrays(contents: dict[str, bytes]) -> int:
    """How many bytes the arrays need: an array may name the same chunk again and again."""
    total = 0
    for content in contents.values():
        kind, children, _ = get_object_head_values_from_object_content(content)
        if kind == Array.__qualname__:
            chunks = json.loads(get_object_body(content, Array))["arraychunk_ids"]
            total += sum(len(contents[children[chunk]]) for chunk in chunks)
    return total


def _never_came(proto: ProtoMessage) -> Message:
    """An error reply in place of one whose parts are missing."""
    error = Error(ErrorCode.MESSAGE_UNAVAILABLE, "never came whole")
    return make_message(message_from_proto(proto).metadata, error=error)


def _runtime_client(
    where: AdminAddress, interceptors: list[ProtobufClientInterceptor], retry: RetryInvoker | None = None
) -> RuntimeHttpClient:
    return RuntimeHttpClient(
        f"https://{where.address}",
        interceptors=[RuntimeVersionHttpInterceptor(component_name=_SERVER_APP), _AdminSecret(where), *interceptors],
        verify=ssl.create_default_context(cafile=str(where.authority)),
        retry_invoker=retry,
    )


class _AdminSecret:
    """Adds the secret to a request."""

    def __init__(self, where: AdminAddress) -> None:
        self._secret = where.secret.read_text(encoding="ascii")

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """One request."""
        add_headers(context.request, {ADMIN_HEADER: self._secret})
        return call_next(context)
