"""How does a message from the lab get to the site, and nothing of the lab's code with it? One process takes every task.

Stock Flower starts a Python process for each message and runs in it whatever code the lab's bundle holds. Here the
SuperNode is told to start nothing (process isolation), and the site process, which the hospital installed and which
lives as long as the node, takes the tasks over the SuperNode's Runtime API on loopback. The bundle is hashed, compared
with the approved one, and never unpacked. All that is touched of Flower's insides at a hospital is touched here, for
1.41; tests/test_flower_contract.py says what broke.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import httpx
from flwr.app import Context, Message
from flwr.common.constant import Status, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode import start_client_internal
from flwr.supernode.cli import flower_supernode
from flwr.supernode.nodestate import InMemoryNodeState, NodeState
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output
from flwr.supernode.start_client_internal import _pull_and_store_message

from bioface_core.logs import say
from bioface_core.messages import Code
from bioface_core.waits import shorten_waits
from bioface_core.wire import fold, unfold
from client.app import refusal

_log = logging.getLogger("bioface.executor")

LOOPBACK = "127.0.0.1"
_CLIENT_APP = "flwr-clientapp"
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_POLL_S = 0.1  # of the SuperNode by the site process, on loopback: more often costs more than it gains
_NODE_POLL_S = 0.2  # of the lab by the SuperNode, which would wait 3 s
_REPLY_POLL_S = 0.02  # of its own memory by the SuperNode, which would wait 0.5 s for the site process's answer
_AWAY_S = 0.5  # between two looks for a SuperNode that is not there

Answer = Callable[[Message, Context], Message]


@dataclass(frozen=True)
class NodeSettings:
    """What a SuperNode needs.

    Attributes:
        superlink: host and port of the lab.
        authority: certificate of the lab's CA, PEM.
        key: the node's private key.
        secret: file of the secret that it shares with the site process.
        runtime_port: where the site process finds it, on loopback.
        health_port: gRPC health protocol, on loopback.
    """

    superlink: str
    authority: Path
    key: Path
    secret: Path
    runtime_port: int
    health_port: int


def run_node(settings: NodeSettings) -> NoReturn:
    """Runs Flower's own SuperNode in this process until it is told to end, with its waits shortened.

    When the connection to the lab breaks in a certain way, Flower's loop returns and the process lives on, deaf:
    whoever supervises it must see it end.
    """
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    shorten_waits()
    vars(start_client_internal)["time"] = SimpleNamespace(sleep=_sleep_less, time=time.time)
    vars(start_client_internal)["_pull_and_store_message"] = _without_orphans(_pull_and_store_message)
    setattr(InMemoryNodeState, "get_message_processing_duration", _no_duration)  # noqa: B010 - mypy allows no method
    sys.argv = ["flower-supernode", *_options(settings)]
    flower_supernode()
    logging.shutdown()
    os._exit(1)


def _sleep_less(seconds: float) -> None:
    """In place of Flower's sleeps, of which the long one is for the lab and the short one for the site process."""
    time.sleep(_NODE_POLL_S if seconds >= 1 else _REPLY_POLL_S)


def _no_duration(state: NodeState, message_id: str) -> float:
    """In place of the exact time that a hospital worked, which Flower sends along: it grows with its patients."""
    return 0.0


def _without_orphans(pull: Callable[..., int | None]) -> Callable[..., int | None]:
    """Flower's pull of one message, less the task it leaves behind when the run ended in between.

    Nobody will ever bring that task's objects, and the site process would wait for them.
    """

    @functools.wraps(pull)
    def pulling(state: NodeState, **others: Any) -> int | None:
        run_id = pull(state=state, **others)
        if run_id is None:
            for task in state.get_tasks(statuses=[Status.PENDING, Status.STARTING, Status.RUNNING]):
                state.finish_task(task.task_id, sub_status=SubStatus.STOPPED, details="")
        return run_id

    return pulling


def _options(settings: NodeSettings) -> list[str]:
    return [
        *("--superlink", settings.superlink, "--root-certificates", str(settings.authority)),
        *("--auth-supernode-private-key", str(settings.key)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(settings.secret)),
        *("--host", LOOPBACK, "--port", str(settings.runtime_port)),
        *("--health-server-address", f"{LOOPBACK}:{settings.health_port}"),
    ]


class TaskLoop:
    """Takes the SuperNode's tasks, one after another.

    Args:
        runtime_port: the SuperNode's.
        secret: file of the secret that it shares with us.
        bundle_sha256: of the approved bundle.
        answer: what the site says to a message; raises nothing.
        on_refusal: is told of a refusal that the site never saw.
    """

    def __init__(
        self,
        runtime_port: int,
        secret: Path,
        bundle_sha256: str,
        answer: Answer,
        on_refusal: Callable[[Code], None] = lambda code: None,
    ) -> None:
        shorten_waits()
        self._address = f"{LOOPBACK}:{runtime_port}"
        self._bundle_sha256, self._answer, self._on_refusal = bundle_sha256, answer, on_refusal
        signed = SuperExecAuthHttpInterceptor(master_secret=secret.read_bytes(), protected_methods={_ACQUIRE})
        self._node = self._client("flwr-superexec", signed)

    def run(self, stop: threading.Event) -> None:
        """Until ``stop`` is set; a SuperNode that is not there, or goes away in between, is waited for."""
        while not stop.is_set():
            try:
                token = self._node.AcquireTask(AcquireTaskRequest(supported_task_types=[_CLIENT_APP])).token
                if token:
                    self._perform(token)
                else:
                    stop.wait(_POLL_S)
            except httpx.HTTPError as error:
                _log.debug("the SuperNode does not answer (%s)", type(error).__name__)
                stop.wait(_AWAY_S)
            except Exception:  # of many kinds: whatever Flower raises on a message that it cannot read
                say(_log, "unreadable", logging.ERROR)
                stop.wait(_AWAY_S)
        self._node.close()

    def _perform(self, token: str) -> None:
        """One task: its message in, the answer out.

        Raises:
            httpx.HTTPError: the SuperNode went away; the answer, if there was one, is in the site's memory.
        """
        client = self._client(_CLIENT_APP, RuntimeTokenHttpInterceptor(token))
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
        heartbeat.start()
        context, sub_status = None, SubStatus.FAILED
        try:
            message, context, _, bundle = pull_task_input(client)
            if message.has_content():
                message.content = unfold(message.content)
            reply = self._checked_answer(message, context, bundle.content)
            if reply.has_content():
                reply.content = fold(reply.content)
            push_message(client, reply, context)
            sub_status = SubStatus.COMPLETED
        finally:
            push_task_output(client=client, context=context, sub_status=sub_status, details="")
            heartbeat.stop()
            client.close()

    def _checked_answer(self, message: Message, context: Context, bundle: bytes) -> Message:
        """The site's answer, if the lab runs the approved code. The bundle is hashed and looked at no further."""
        found = hashlib.sha256(bundle).hexdigest()
        if found == self._bundle_sha256:
            return self._answer(message, context)
        say(_log, "refused", logging.WARNING, code=Code.BUNDLE, found=found[:12], approved=self._bundle_sha256[:12])
        self._on_refusal(Code.BUNDLE)
        return refusal(message, Code.BUNDLE)

    def _client(self, component: str, interceptor: ProtobufClientInterceptor) -> RuntimeHttpClient:
        """Without Flower's retries: it is the loop that tries again."""
        interceptors = [RuntimeVersionHttpInterceptor(component_name=component), interceptor]
        return RuntimeHttpClient(f"http://{self._address}", interceptors=interceptors, verify=False)
