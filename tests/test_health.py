"""Does the health protocol say whether the site serves, to whoever asks in the standard way?"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from bioface_core.errors import HospitalError
from client.health import SERVICE, HealthServer, probe


@pytest.fixture
def server() -> Iterator[HealthServer]:
    server = HealthServer(0)
    yield server
    server.stop()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("service", ["", SERVICE])
def test_it_serves_from_when_it_says_so(server: HealthServer, service: str) -> None:
    assert not probe(server.port, service=service)
    server.serving(True)
    assert probe(server.port, service=service)
    server.serving(False)
    assert not probe(server.port, service=service)


def test_any_client_of_the_protocol_understands_it(server: HealthServer) -> None:
    server.serving(True)
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert HealthStub(channel).Check(HealthCheckRequest(), timeout=5).status == HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as error:
            HealthStub(channel).Check(HealthCheckRequest(service="another"), timeout=5)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        watched = HealthStub(channel).Watch(HealthCheckRequest(service=SERVICE), timeout=5)
        assert next(watched).status == HealthCheckResponse.SERVING
        server.serving(False)
        assert next(watched).status == HealthCheckResponse.NOT_SERVING


def test_nobody_there_is_an_answer_in_time() -> None:
    began = time.monotonic()
    assert not probe(free_port(), timeout_s=0.5)
    assert time.monotonic() - began < 3


def test_somebody_who_says_nothing_is_an_answer_in_time() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        began = time.monotonic()
        assert not probe(mute.getsockname()[1], timeout_s=0.5)
        assert time.monotonic() - began < 3


def test_a_proxy_is_not_asked_for_loopback(server: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.serving(True)
    assert probe(server.port)


def test_stopped_it_is_gone() -> None:
    server = HealthServer(0)
    server.serving(True)
    server.stop()
    assert not probe(server.port, timeout_s=0.5)


def test_a_port_has_one_owner(server: HealthServer) -> None:
    with pytest.raises(HospitalError, match=f"port {server.port} for health is taken: .* ports.health"):
        HealthServer(server.port)


def test_it_is_on_loopback_alone(server: HealthServer) -> None:
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((own, server.port), timeout=2).close()
