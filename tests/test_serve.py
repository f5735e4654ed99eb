"""Does the lab's supervisor do what was ordered, and resume what was cut off? Its children only say how they end."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bioface_core.config import Study
from bioface_core.errors import LabError
from server import serve
from server.follow import overview, wait_for
from server.lab import Enrolled, Lab, LabSettings
from server.serve import Status, give_order, is_served, read_status

STUDY = Study().replace({"name": "ordered", "syndromes": ["down", "noonan"]})


@dataclass
class FakeChild:
    """A process that ends when the test says so."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    log: Path
    running: bool = False
    status: int | None = None
    starts: int = 0
    died: bool = False

    def start(self) -> None:
        self.running, self.status, self.starts = True, None, self.starts + 1

    def keep(self) -> bool:
        again, self.died = self.died, False
        self.running = True
        return again

    def stop(self) -> None:
        self.running, self.status = False, None

    def forget(self) -> None:
        assert not self.running
        self.status = None

    def ends(self, status: int) -> None:
        self.running, self.status = False, status


@dataclass
class FakeAdmin:
    """A SuperLink that is up or not, and knows who was registered."""

    where: Any
    down: bool = False
    known: dict[bytes, Any] = field(default_factory=dict)

    def nodes(self) -> dict[bytes, Any]:
        if self.down:
            raise httpx.ConnectError("down")
        return dict(self.known)

    def register(self, public_key: bytes, name: str) -> None:
        self.known[public_key] = type("Node", (), {"node_id": len(self.known), "name": name, "status": "online"})()

    def unregister(self, node_id: int) -> None:
        self.known = {key: node for key, node in self.known.items() if node.node_id != node_id}

    def close(self) -> None:
        pass


@dataclass
class Served:
    """A lab with a supervisor that is told when to look."""

    lab: Lab
    supervisor: Any

    @property
    def app(self) -> FakeChild:
        child: FakeChild = self.supervisor._app
        return child

    @property
    def admin(self) -> FakeAdmin:
        admin: FakeAdmin = self.supervisor._admin
        return admin

    def look(self) -> Status:
        self.supervisor._look()
        return read_status(self.lab)

    def order(self, action: Any = "run") -> Status:
        give_order(self.lab, action, STUDY if action == "run" else None)
        return self.look()

    def ends(self, status: int, reason: str = "") -> Status:
        (self.lab.state / "outcome.json").write_text(json.dumps({"reason": reason}))
        self.app.ends(status)
        return self.look()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, LabSettings(address="localhost:8443", listen="127.0.0.1:8443"))
    for folder in (lab.state, lab.runs, lab.logs, lab.keys):
        folder.mkdir()
    return lab


@pytest.fixture
def served(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(serve, "Child", FakeChild)
    monkeypatch.setattr(serve, "Admin", FakeAdmin)
    monkeypatch.setattr(serve, "_PAUSE_S", 0.0)
    with serve._lock(lab):
        yield Served(lab, serve._Serve(lab))


def hospital(name: str, revoked_at: str | None = None) -> Enrolled:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    text = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return Enrolled(
        name=name, identity_key="0" * 64, node_key=text, invited_at="2026-11-23T00:00:00+00:00", revoked_at=revoked_at
    )


def round_is_done(lab: Lab, number: int) -> None:
    folder = lab.runs / STUDY.name
    folder.mkdir(exist_ok=True)
    (folder / f"round-{number:04d}.json").write_text("{}")


def test_an_order_is_carried_out(served: Served) -> None:
    assert served.look().state == "idle" and served.app.starts == 0
    assert served.order().state == "running" and served.app.running
    assert served.lab.ordered_study().study_id == STUDY.study_id
    assert served.ends(0).state == "finished"
    assert served.look().state == "finished" and served.app.starts == 1


def test_a_study_waits_until_the_superlink_is_up(served: Served) -> None:
    served.admin.down = True
    assert served.order().state == "running" and served.app.starts == 0
    served.admin.down = False
    served.look()
    assert served.app.starts == 1


def test_a_run_that_was_killed_is_resumed_at_once(served: Served) -> None:
    served.order()
    status = served.ends(-9)
    assert status.state == "running" and status.restarts == 1 and status.failures == 0
    assert served.app.starts == 2


def test_a_failed_round_is_tried_again_a_few_times(served: Served) -> None:
    served.order()
    for attempt in range(1, serve._FAILURES):
        assert served.ends(1, f"round 1 failed for reason {attempt}").failures == attempt
    status = served.ends(1, "round 1 failed")
    assert (status.state, status.reason) == ("failed", "round 1 failed")
    assert served.app.starts == serve._FAILURES


def test_a_round_that_was_finished_in_between_starts_the_count_anew(served: Served) -> None:
    served.order()
    assert served.ends(1, "round 1 failed").failures == 1
    assert served.ends(1, "round 1 failed").failures == 2
    round_is_done(served.lab, 1)
    assert served.ends(1, "round 2 failed").failures == 1


def test_a_mistake_that_trying_again_does_not_mend_ends_the_run(served: Served) -> None:
    served.order()
    status = served.ends(2, "the disk is full")
    assert (status.state, status.reason) == ("failed", "the disk is full")
    assert served.look().state == "failed" and served.app.starts == 1


def test_a_run_can_be_stopped_and_ordered_again(served: Served) -> None:
    served.order()
    assert served.order("stop").state == "stopped" and not served.app.running
    assert served.look().state == "stopped"
    assert served.order().state == "running" and served.app.starts == 2


def test_a_superlink_that_died_takes_the_serverapp_along(served: Served) -> None:
    served.order()
    served.supervisor._link.died = True
    served.admin.known.clear()
    served.lab.write_roster((hospital("a"),))
    status = served.look()
    assert status.state == "running" and served.app.starts == 2
    assert len(served.admin.known) == 1, "nodes are registered before anybody is asked"


def test_the_superlink_knows_the_roster_and_nobody_else(served: Served) -> None:
    one, other = hospital("a"), hospital("b")
    served.admin.register(b"an old key", "stranger")
    served.lab.write_roster((one, other))
    served.look()
    assert set(served.admin.known) == {one.node_public_bytes, other.node_public_bytes}


def test_a_revoked_hospital_is_shut_out_at_the_next_look(served: Served) -> None:
    one = hospital("a")
    served.lab.write_roster((one,))
    served.look()
    revoked = Enrolled(**{name: getattr(one, name) for name in Enrolled.model_fields} | {"revoked_at": "2026-11-24"})
    served.lab.write_roster((revoked,))
    served.look()
    assert served.admin.known == {}


def test_a_full_disk_does_not_end_the_supervisor(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(path: Path, content: str) -> None:
        raise OSError(28, "No space left on device")

    served.order()
    monkeypatch.setattr(serve, "write_text", no_room)
    served.app.ends(0)
    served.supervisor._look()
    assert served.supervisor._status.state == "finished"


def test_it_goes_on_after_it_was_killed_itself(served: Served) -> None:
    served.order()
    again = Served(served.lab, serve._Serve(served.lab))
    assert again.look().state == "running" and again.app.starts == 1


def test_orders_that_make_no_sense_are_refused(lab: Lab, served: Served) -> None:
    with pytest.raises(LabError, match="nothing is running"):
        give_order(lab, "stop")
    served.order()
    with pytest.raises(LabError, match="ordered is running"):
        give_order(lab, "run", STUDY)


def test_nobody_serves_a_lab_twice_and_nobody_orders_without(lab: Lab) -> None:
    assert not is_served(lab)
    with pytest.raises(LabError, match="is not served"):
        give_order(lab, "run", STUDY)
    with serve._lock(lab):
        assert is_served(lab)
        with pytest.raises(LabError, match="served already"):
            serve.serve(lab)


def test_a_port_that_somebody_has_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_PORT_PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = lab.settings.model_copy(update={"metrics_port": taken.getsockname()[1], "listen": "127.0.0.1:1"})
        with pytest.raises(LabError, match=r"(metrics_port: 127.0.0.1:\d+|listen: 127.0.0.1:1) cannot be listened on"):
            serve.serve(Lab(lab.folder, settings))


def test_an_order_that_nobody_takes_is_noticed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.follow._PATIENCE_S", 0.1)
    with pytest.raises(LabError, match="does not take orders"):
        wait_for(lab, 1)


def test_the_overview_says_who_is_invited_and_what_runs(lab: Lab, served: Served) -> None:
    lab.write_roster((hospital("a"), hospital("b", revoked_at="2026-11-24T00:00:00+00:00")))
    served.order()
    round_is_done(lab, 3)
    import server.follow

    patch = pytest.MonkeyPatch()
    patch.setattr(server.follow, "warnings", lambda lab: ["server.crt expires in 3 days"])
    patch.setattr(server.follow, "Admin", lambda where: served.admin)
    found = overview(lab).to_json()
    served.admin.down = True
    assert overview(lab).to_json()["hospitals"][0]["state"] == "invited"
    patch.undo()
    assert found["served"] and found["state"] == "running" and found["rounds"] == 3
    assert found["hospitals"] == [{"name": "a", "state": "connected"}, {"name": "b", "state": "revoked"}]
    assert found["warnings"] == ["server.crt expires in 3 days"]
