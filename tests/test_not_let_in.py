"""Does a refusal change anything? Well-formed attacks on a lab and a hospital that run, and their files afterwards.

tests/test_refused.py says which number a request gets; here every attack is one that stock Flower would carry out, and
what counts is that nothing came of it: at the lab no run and no key, at the hospital not a byte but a line in its log.
"""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.main import create_app

from bioface_core.config import load_yaml
from bioface_core.messages import Code, Phase
from bioface_core.supervise import stop_all
from client.hospital import Hospital
from server.grid import _ACQUIRE, _SERVER_APP, _AdminSecret
from server.link import _NODES_AND_HEALTH, _flower_settings
from simulation.rehearse.stage import child_environment
from tests.certificates import make_authority
from tests.live_lab import FATAL_ROUND, SECRET, LiveLab, contents, live_lab, node_of, refused, until, with_field

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),  # Flower's database migrations
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveLab]:
    with live_lab(tmp_path_factory.mktemp("live")) as running:
        yield running


@pytest.fixture
def nothing_changes(live: LiveLab) -> Iterator[None]:
    """The hospital's folder, its logs aside, is byte for byte what it was; so are the lab's runs and nodes."""
    before = contents(live.hospital), runs(live), live.admin.nodes().keys()
    yield
    assert (contents(live.hospital), runs(live), live.admin.nodes().keys()) == before


def runs(live: LiveLab) -> set[int]:
    return set(live.admin._client.ListRuns(ListRunsRequest()).run_dict)


# --- the lab's public port ---


def public_control(live: LiveLab) -> ControlHttpClient:
    """An administrator who even knows the secret, at the wrong door."""
    interceptors = [RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _AdminSecret(live.lab.admin)]
    return ControlHttpClient(f"https://{live.lab.settings.address}", interceptors=interceptors, verify=live.trusting)


def submit_a_run(live: LiveLab) -> None:
    fab = Fab(hash_str=live.lab.bundle_sha256, content=live.lab.bundle.read_bytes())
    with closing(public_control(live)) as client:
        client.StartRun(StartRunRequest(fab=fab))


def register_a_key(live: LiveLab) -> None:
    key = public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key())
    with closing(public_control(live)) as client:
        client.RegisterNode(RegisterNodeRequest(public_key=key, name="intruder"))


def acquire_a_task(live: LiveLab) -> None:
    signed = SuperExecAuthHttpInterceptor(master_secret=live.lab.admin.secret.read_bytes(), protected_methods={_ACQUIRE})
    interceptors = [RuntimeVersionHttpInterceptor(component_name=_SERVER_APP), signed]
    address = f"https://{live.lab.settings.address}"
    with closing(RuntimeHttpClient(address, interceptors=interceptors, verify=live.trusting)) as client:
        client.AcquireTask(AcquireTaskRequest(supported_task_types=[_SERVER_APP]))


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize("attack", [submit_a_run, register_a_key, acquire_a_task])
def test_flower_s_own_clients_get_nowhere_on_the_public_port(
    live: LiveLab, attack: Callable[[LiveLab], None]
) -> None:
    before = len(live.refusals())
    with pytest.raises(httpx.HTTPStatusError) as error:
        attack(live)
    assert error.value.response.status_code == 404 and error.value.response.content == b""
    assert len(live.refusals()) == before + 1


@pytest.mark.usefixtures("nothing_changes")
def test_no_other_route_of_flower_s_is_answered(live: LiveLab) -> None:
    """All that the application has, so that a route which comes with another version is refused as well."""
    app = create_app(_flower_settings(live.lab.link), SuperLinkLifespan)
    others = {str(getattr(route, "path", "")) for route in app.routes} - _NODES_AND_HEALTH - {""}
    assert len(others) > 20 and "/v1/control/start-run" in others and "/docs" in others
    with httpx.Client(verify=live.trusting, base_url=f"https://{live.lab.settings.address}") as client:
        answered = {path for path in others if client.post(path, content=b"").status_code != 404}
    assert answered == set()
    assert others <= {entry["path"] for entry in live.refusals()}
