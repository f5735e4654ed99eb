"""Is the site ready? The standard gRPC health protocol on loopback, for doctor, systemd and orchestrators.

Source: the protocol is that of https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server

from bioface_core.errors import HospitalError

LOOPBACK = "127.0.0.1"
SERVICE = "bioface.Site"

_SERVICES = ("", SERVICE)  # "" asks for the whole process
_END_S = 1.0
_ALONE = ("grpc.so_reuseport", 0)  # or a second process could listen on the same port, and take half of the questions
_DIRECT = ("grpc.enable_http_proxy", 0)  # loopback is not to be looked for behind the hospital's proxy


class HealthServer:
    """Answers whether this process is serving; until it is told otherwise, it is not.

    Args:
        port: on loopback; 0 for any that is free.

    Raises:
        HospitalError: the port is taken.
    """

    def __init__(self, port: int) -> None:
        self._health = HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=2, thread_name_prefix="health"), options=[_ALONE])
        add_HealthServicer_to_server(self._health, self._server)
        self.serving(False)
        try:
            self.port = int(self._server.add_insecure_port(f"{LOOPBACK}:{port}"))
        except RuntimeError as error:
            hint = "stop what listens there, or choose another ports.health in hospital.yaml"
            raise HospitalError(f"port {port} for health is taken: {hint}") from error
        self._server.start()

    def serving(self, ready: bool) -> None:
        """Says from now on whether the site answers requests."""
        status = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
        for service in _SERVICES:
            self._health.set(service, status)

    def stop(self) -> None:
        """Says that the site does not serve, and ends."""
        self._health.enter_graceful_shutdown()
        self._server.stop(_END_S).wait()


def probe(port: int, timeout_s: float = 2.0, service: str = SERVICE) -> bool:
    """Whether a process on loopback says that it is serving; False if there is none, or no answer in time."""
    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=[_DIRECT]) as channel:
        try:
            reply = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(reply.status == HealthCheckResponse.SERVING)
