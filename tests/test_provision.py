"""Does a lab come to be, and does it invite and shut out those hospitals that it means to, and nobody by mistake?"""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

import server.provision
from bioface_core.config import find_study, read_study
from bioface_core.errors import LabError, WeightsError
from client.policy import Policy, violations
from server.lab import Lab
from server.provision import fingerprint, invite, issue_kits, plan_lab, renew, revoke, warnings
from tests.small_lab import ADDRESS, NAMES, World, a_lab, a_request, a_world, lab_study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return a_world(tmp_path_factory.mktemp("made"))


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    return made.copy(tmp_path)


def test_a_lab_is_read_back(world: World) -> None:
    again = Lab.open(world.folder / "lab")
    assert again.settings == world.lab.settings and again.roster() == world.lab.roster()
    assert (again.host, again.settings.listen) == ("lab.example.org", "0.0.0.0:8443")
    assert read_study(again.template_file) == lab_study()
    assert {path.name for path in again.folder.iterdir() if not path.name.startswith(".")} == {
        *("lab.yaml", "study.yaml", "roster.json", "bundle.fab", "keys", "start", "kits", "state", "runs", "logs")
    }


def test_a_lab_is_not_made_over_another(world: World) -> None:
    before = {path: path.read_bytes() for path in world.lab.keys.iterdir()}
    with pytest.raises(LabError, match="is not empty: choose a new folder"):
        a_lab(world.lab.folder)
    assert {path: path.read_bytes() for path in world.lab.keys.iterdir()} == before


@pytest.mark.parametrize("step", ["write_text", "make_authority", "make_server_certificate", "build_bundle"])
def test_what_was_half_made_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def power_cut(*arguments: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(server.provision, step, power_cut)
        a_lab(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()
    (tmp_path / ".lab.part" / "keys").mkdir(parents=True)  # and what a kill -9 leaves
    assert a_lab(tmp_path / "lab").roster() == ()
    assert [path.name for path in tmp_path.iterdir()] == ["lab"]


@pytest.mark.parametrize(
    ("address", "settings", "message"),
    [
        ("lab.example.org", {}, "address: expected HOST:PORT, such as lab.example.org:8443"),
        ("https://lab.example.org:8443", {}, "address: expected HOST:PORT"),
        (ADDRESS, {"listen": "8443"}, "listen: expected HOST:PORT"),
        (ADDRESS, {"admin_port": 0}, "admin_port is 0"),
        (ADDRESS, {"admin_prot": 1}, "admin_prot is no known key; nearest: admin_port"),
    ],
)
def test_a_wrong_setting_is_found_before_anything_is_made(
    tmp_path: Path, address: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(LabError, match=message) as error:
        plan_lab(tmp_path / "lab", address, **settings)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no lab .no lab.yaml.: make one with `bioface lab init`"),
        ("[1]", "holds list"),
        ("address: lab:1\nlisten: lab:1\nadress: x\n", "adress is no known key; nearest: address"),
        ("listen: lab:1\n", "address"),
    ],
)
def test_what_is_no_lab_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "lab.yaml").write_text(content)
    with pytest.raises(LabError, match=message) as error:
        Lab.open(tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_roster_is_named(world: World) -> None:
    whole = world.lab.roster_file.read_text()
    node_key = json.loads(whole)[0]["node_key"]
    for damaged in (whole[:-1], "{}", "[3]", '[{"name": "x"}]', whole.replace(node_key, node_key[:60])):
        world.lab.roster_file.write_text(damaged)
        with pytest.raises(LabError, match="roster.json is damaged .*: restore it from a backup"):
            world.lab.roster()


def test_a_lab_without_hospitals_issues_nothing(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no hospital on its roster: `bioface lab invite`"):
        issue_kits(a_lab(tmp_path / "lab"))


def test_other_start_files_than_the_study_s_are_not_issued(world: World) -> None:
    edited = lab_study().replace({"model": {"base_sha256": "0" * 64}})
    with pytest.raises(WeightsError, match="has the hash"):
        world.lab.issued(edited)


def test_another_study_is_issued_with_the_same_roster(world: World) -> None:
    longer = lab_study().replace({"federation": {"rounds": 9}})
    issued = world.lab.issued(longer)
    assert issued.federation.rounds == 9 and issued.roster == world.lab.issued().roster
    assert [path.name for path in issue_kits(world.lab, longer)] == list(NAMES)
    assert world.approve().study == issued


def test_certificates_are_watched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert warnings(world.lab) == []
    monkeypatch.setattr(server.provision, "expires_in", lambda path: timedelta(days=29, hours=5))
    assert warnings(world.lab)[0] == "server.crt expires in 29 days: `bioface lab renew`"
    monkeypatch.setattr(server.provision, "expires_in", lambda path: timedelta(seconds=-1))
    assert [line.partition(":")[0] for line in warnings(world.lab)] == ["server.crt has expired", "ca.crt has expired"]


def test_renewing_changes_nothing_for_the_hospitals(world: World) -> None:
    kit, before = world.approve(), world.lab.certificate.read_bytes()
    renew(world.lab)
    assert world.lab.certificate.read_bytes() != before
    assert fingerprint(world.lab.authority) == kit.authority_sha256 and world.lab.issued() == kit.study


def test_the_shipped_template_can_be_approved() -> None:
    """`bioface lab init` starts from configs/lab.yaml, whose every setting a hospital's policy can allow."""
    study = read_study(find_study("lab"))
    assert study.roster == () and study.model.norm == "frozen" and len(study.syndromes) == 10
    assert violations(Policy(metrics=("loss", "counts"), epsilon=None, must_mask=False), study) == []


def test_the_roster_says_who_may_connect(world: World) -> None:
    charite, bonn = world.lab.roster()
    assert charite.node_public_bytes != bonn.node_public_bytes
    content = json.loads(world.lab.roster_file.read_text())
    assert [one.keys() for one in content] == [{"name", "identity_key", "node_key", "invited_at", "revoked_at"}] * 2


@pytest.mark.parametrize(
    ("address", "listen"), [("[2001:db8::7]:8443", "[::]:8443"), ("192.0.2.7:4443", "0.0.0.0:4443")]
)
def test_a_lab_listens_where_its_address_is_reached(tmp_path: Path, address: str, listen: str) -> None:
    lab = a_lab(tmp_path / "lab", address)
    assert (lab.settings.listen, f"[{lab.host}]:8443" == address) == (listen, address.startswith("["))


def test_a_lab_that_moved_renews_its_certificate(world: World) -> None:
    settings = world.lab.folder / "lab.yaml"
    settings.write_text(settings.read_text().replace("lab.example.org", "new.example.org"))
    renew(Lab.open(world.lab.folder))
    certificate = x509.load_pem_x509_certificate(world.lab.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["new.example.org", "localhost"]


def test_a_network_that_the_start_does_not_fit_is_not_issued(world: World) -> None:
    """The lab edited its study after the start was made."""
    before = {path: path.read_bytes() for path in world.lab.kits.rglob("*") if path.is_file()}
    with pytest.raises(WeightsError):
        issue_kits(world.lab, lab_study().replace({"model": {"width": 0.25}}))
    assert {path: path.read_bytes() for path in world.lab.kits.rglob("*") if path.is_file()} == before


def test_init_lab_takes_its_settings(tmp_path: Path) -> None:
    lab = a_lab(tmp_path / "lab", "localhost:4443", listen="127.0.0.1:4444", admin_port=4445)
    assert (lab.settings.listen, lab.settings.admin_port) == ("127.0.0.1:4444", 4445)
    assert (lab.link.public, lab.admin.address) == (("127.0.0.1", 4444), "127.0.0.1:4445")


def test_a_revoked_hospital_stays_in_the_study(world: World) -> None:
    before = world.lab.issued()
    revoke(world.lab, "bonn")
    assert [one.revoked_at is None for one in world.lab.roster()] == [True, False]
    assert world.lab.issued() == before
    assert [path.name for path in issue_kits(world.lab)] == ["charite"], "it gets no kit any more"


def test_a_revoked_hospital_s_name_and_keys_stay_taken(world: World) -> None:
    revoke(world.lab, "bonn")
    with pytest.raises(LabError, match="bonn is on the roster already"):
        invite(world.lab, [world.folder / "bonn" / "join-request.json"])


def test_only_who_is_there_can_be_revoked(world: World) -> None:
    with pytest.raises(LabError, match="jena is not on the roster, which holds charite, bonn"):
        revoke(world.lab, "jena")
    revoke(world.lab, "bonn")
    with pytest.raises(LabError, match="bonn was revoked at 20.* already"):
        revoke(world.lab, "bonn")


def test_two_administrators_do_not_undo_each_other(world: World, tmp_path: Path) -> None:
    request = a_request(tmp_path / "jena", "jena")
    other = threading.Thread(target=invite, args=(world.lab, [request]))
    with world.lab.changing_roster() as roster:
        other.start()
        other.join(0.2)
        assert other.is_alive(), "it waits"
        world.lab.write_roster(roster[:1])
    other.join(20)
    assert [one.name for one in world.lab.roster()] == ["charite", "jena"]
