"""Does the clinic's page answer as the model does, whatever it is given, and to nobody else? And is nothing kept?"""

from __future__ import annotations

import base64
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bioface_core.calibration import Reliability, fit
from bioface_core.errors import PhotoError
from bioface_core.expert import read_expert
from bioface_core.gallery import Gallery
from bioface_core.predict import predict
from bioface_core.terms import findings
from bioface_core.web.door import Token, local_app
from client.clinic import Clinic, clinic_app
from client.clinic.wire import face_of, picture
from simulation import phantom
from tests.local_client import TOKEN as SECRET
from tests.local_client import LocalClient
from tests.small_run import write_small_run

TOKEN = Token(SECRET)
Picture = Image.Image
Save = Callable[[Picture], bytes]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    return Clinic(read_expert(write_small_run(tmp_path_factory.mktemp("run"))))


@pytest.fixture(scope="module")
def client(clinic: Clinic) -> LocalClient:
    return LocalClient(clinic_app(clinic, TOKEN))


@pytest.fixture(scope="module")
def portrait() -> Picture:
    photo_CHW = phantom.render(5, torch.tensor([0]), torch.tensor([0])).photos_NCHW[0]
    return Image.fromarray(photo_CHW.permute(1, 2, 0).numpy())


def saved(image: Picture, format_: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def look(client: LocalClient, content: bytes) -> dict[str, Any]:
    answer = client.post("/api/look", json={"photo": base64.b64encode(content).decode()})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def face(client: LocalClient, portrait: Picture) -> str:
    return str(look(client, saved(portrait))["face"]).partition(",")[2]


def turned(portrait: Picture) -> bytes:
    """Lying on its side, with the EXIF note of a telephone that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(portrait.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=98, exif=exif)


def sixteen_bits(portrait: Picture) -> bytes:
    grey_HW = np.asarray(portrait.convert("L")).astype(np.uint16) * 257
    return saved(Image.fromarray(grey_HW))


@pytest.mark.parametrize(
    "save",
    [
        saved,
        turned,
        sixteen_bits,
        lambda image: saved(image.convert("CMYK"), "JPEG", quality=98),
        lambda image: saved(image, "WEBP"),
        lambda image: saved(image, "TIFF"),
    ],
    ids=["png", "exif", "16 bits", "cmyk", "webp", "tiff"],
)
def test_a_photo_of_any_kind_is_looked_at(client: LocalClient, portrait: Picture, save: Save) -> None:
    plain, other = look(client, saved(portrait)), look(client, save(portrait))
    assert other["reason"] is None and other["quality"]["eye_distance_px"] > 16
    first, second = (face_of(base64.b64decode(one["face"].partition(",")[2])).float() for one in (plain, other))
    grey_first, grey_second = first.mean(0), second.mean(0)
    assert float((grey_first - grey_second).abs().mean()) < 12


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Dear colleague", "not an image"),
        (b"", "not an image"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(64), "unsupported format"),
        (saved(Image.new("RGB", (64, 64)), "JPEG")[:300], "unreadable"),
        (saved(Image.new("1", (12_000, 12_000))), "unreadable"),
        (saved(Image.new("RGB", (300, 200), "grey")), "no face"),
    ],
    ids=["text", "empty", "heic", "cut short", "bomb", "wall"],
)
def test_what_is_no_use_gets_its_reason(client: LocalClient, content: bytes, reason: str) -> None:
    seen = look(client, content)
    assert (seen["reason"], seen["face"], seen["quality"]) == (reason, None, None)
    assert client.get("/api/model").json()["advice"][reason]


def test_several_faces_are_refused_and_the_main_one_shown(client: LocalClient) -> None:
    two = phantom.render(5, torch.tensor([0, 1]), torch.tensor([0, 0])).photos_NCHW
    seen = look(client, saved(Image.fromarray(torch.cat([*two], 2).permute(1, 2, 0).numpy())))
    assert seen["reason"] == "several faces" and seen["face"]


def test_an_answer_is_what_the_model_says(client: LocalClient, clinic: Clinic, portrait: Picture) -> None:
    own = face(client, portrait)
    answer = client.post("/api/answer", json={"faces": [own, own], "present": ["HP:0000286"]}).json()
    faces_NCHW = face_of(base64.b64decode(own)).repeat(2, 1, 1, 1)
    seen, same_N = findings(["HP:0000286"]), torch.zeros(2, dtype=torch.int64)
    found = predict(clinic.expert, faces_NCHW, same_N, [()], None, seen)[0]
    assert [(one["key"], one["probability"]) for one in answer["ranking"]] == [
        (one.key, one.probability) for one in found.ranking
    ]
    assert [(one["key"], one["after"]) for one in answer["updated"]] == [(one.key, one.after) for one in found.updated]
    assert answer["photos"] == 2 and answer["answer"] == "ranked"
    assert answer["updated"][0]["moved"][0]["label"] == "Epicanthus"


def test_who_is_not_near_is_not_recognised(clinic: Clinic, portrait: Picture) -> None:
    sure = Reliability.zeros()
    sure.confidence_TB2[:, 7, 1] = 40
    sure.nearness_B2[-1, 1] = 40
    strict = Clinic(replace(clinic.expert, calibration=fit(sure, clinic.expert.study.loss)))
    one = LocalClient(clinic_app(strict, TOKEN), "http://localhost")
    answer = one.post("/api/answer", json={"faces": [face(one, portrait)]}).json()
    assert answer["answer"] == "no syndrome recognised" and len(answer["ranking"]) == 3


def test_the_gallery_is_ranked_and_its_neighbours_named(clinic: Clinic, client: LocalClient, portrait: Picture) -> None:
    own = face(client, portrait)
    embedding_1D = clinic.expert.embed(face_of(base64.b64decode(own))[None])
    gallery = Gallery.empty(clinic.expert).add("own", "Our own syndrome", embedding_1D)
    one = LocalClient(clinic_app(Clinic(clinic.expert, gallery), TOKEN))
    answer = one.post("/api/answer", json={"faces": [own]}).json()
    assert {entry["key"] for entry in answer["ranking"]} >= {"own"}
    assert answer["neighbours"][0] | {"id": ""} == {
        "id": "",
        "key": "own",
        "name": "Our own syndrome",
        "local": True,
        "cosine": pytest.approx(1.0, abs=1e-4),
    }


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("answer", {"faces": []}, "faces"),
        ("answer", {"faces": ["AAAA"]}, "a face is the PNG that looking at a photo gave"),
        ("answer", {"faces": "AAAA"}, "faces"),
        ("answer", {"faces": ["AAAA"] * 13}, "at most 12"),
        ("answer", {"faces": ["AAAA"], "names": ["Anna"]}, "names"),
        ("look", {}, "photo"),
        ("look", {"photo": "AAA"}, "photo"),
    ],
)
def test_an_odd_question_gets_one_line(client: LocalClient, path: str, body: dict[str, Any], said: str) -> None:
    answer = client.post(f"/api/{path}", json=body)
    assert answer.status_code == 400
    line = answer.json()["error"]
    assert said in line and "\n" not in line and "AAAA" not in line and "Anna" not in line


def test_an_unknown_sign_gets_one_line(client: LocalClient, portrait: Picture) -> None:
    answer = client.post("/api/answer", json={"faces": [face(client, portrait)], "present": ["Epicantus"]})
    assert answer.status_code == 400 and "nearest" in answer.json()["error"]


def test_a_face_makes_the_way_unchanged() -> None:
    face_CHW = torch.randint(256, (3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(face_of(base64.b64decode(picture(face_CHW).partition(",")[2])), face_CHW)
    with pytest.raises(PhotoError, match="112"):
        face_of(base64.b64decode(picture(face_CHW[:, :100]).partition(",")[2]))


@pytest.mark.parametrize("shown", ["", "Bearer ", "Bearer guess", "Basic secret", "Bearer secretx", "Bearer s\u00e9cr"])
def test_nobody_is_answered_without_the_token(clinic: Clinic, shown: str) -> None:
    stranger = LocalClient(clinic_app(clinic, TOKEN), headers={})
    answer = stranger.get("/api/model", headers={"Authorization": shown.encode("latin-1")})
    assert answer.status_code == 401 and set(answer.json()) == {"error"}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "localhost.evil.example"])
def test_a_foreign_name_for_this_machine_is_refused(client: LocalClient, host: str) -> None:
    assert client.get("/api/model", headers={"Host": host}).status_code == 421
    assert client.get("/", headers={"Host": host}).status_code == 421


def test_a_body_has_a_largest_size() -> None:
    """Whether it says so beforehand or not."""
    app = local_app(TOKEN, {}, largest_body=1000)

    @app.post("/api/echo")
    async def echo() -> str:
        return "heard"

    def in_parts(parts: int) -> Iterator[bytes]:
        yield from [b"x" * 500] * parts

    one = LocalClient(app)
    assert one.post("/api/echo", content=b"x" * 1000).status_code == 200
    assert one.post("/api/echo", content=b"x" * 1001).status_code == 413
    assert one.post("/api/echo", content=in_parts(2)).status_code == 200
    assert one.post("/api/echo", content=in_parts(3)).status_code == 413


def test_the_page_may_load_and_be_kept_by_nothing(client: LocalClient) -> None:
    for path in ("/", "/page.js", "/page.css", "/style.css", "/api/model", "/missing"):
        headers = client.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
    for path in ("/docs", "/openapi.json", "/redoc"):
        assert client.get(path).status_code == 404


def test_nothing_is_written_and_nothing_is_said(
    client: LocalClient, portrait: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    """Every file that this process opens is seen by the interpreter's audit; none is opened to be written."""
    written: list[object] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and set(str(arguments[1] or "")) & set("wax+"):
            written.append(arguments[0])
        if watching and event in ("os.mkdir", "tempfile.mkstemp", "tempfile.mkdtemp"):
            written.append(arguments)

    own = face(client, portrait)  # whatever is imported on the way has been by now
    sys.addaudithook(watch)
    with caplog.at_level(logging.INFO):
        look(client, saved(portrait) + bytes(3 * 2**20))
        client.post("/api/answer", json={"faces": [own], "absent": ["Epicanthus"]})
        client.post("/api/answer", json={"faces": ["AAAA"]})
    watching = False
    assert written == []
    assert [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")] == []


def test_the_page_brings_all_it_needs(client: LocalClient) -> None:
    page = client.get("/").text
    assert "http://" not in page and "https://" not in page and "<style" not in page and "style=" not in page
    assert Path(sys.modules["client.clinic.app"].__file__ or "").with_name("page.js").exists()
