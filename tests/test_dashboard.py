"""Does the lab's page say how a run stands, while it goes on, whatever happens, and without touching it?"""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bioface_core.errors import RunError
from bioface_core.loss import margin_at
from bioface_core.web.door import Token
from server.dashboard import Watch, dashboard_app
from server.dashboard.words import loss_title, told
from tests.local_client import TOKEN, LocalClient
from tests.test_simulate import run, tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny(), tmp_path_factory.mktemp("runs"))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


class Growing:
    """A copy of a run that grows line by line, as it did."""

    def __init__(self, finished: Path, folder: Path) -> None:
        self._finished, self.folder = finished, folder
        folder.mkdir()
        shutil.copy(finished / "study.yaml", folder)

    def grow(self, until: int, tail: str = "") -> list[dict[str, Any]]:
        """The journal's first lines, and the files of the rounds that were done by then."""
        lines = lines_of(self._finished)[:until]
        (self.folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
        for line in lines:
            if line["event"] == "checkpointed":
                for path in self._finished.glob(f"round-{line['round']:04d}.*"):
                    shutil.copy(path, self.folder)
        return lines


@pytest.fixture
def growing(finished: Path, tmp_path: Path) -> Growing:
    return Growing(finished, tmp_path / "run")


def at(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


def test_it_follows_a_run_from_nothing_to_the_end(finished: Path, growing: Growing) -> None:
    """One watch, looking after every line, sees what one sees who comes at that moment."""
    watch, every = Watch(growing.folder), lines_of(finished)
    assert watch.look()["headline"] == "Not begun" and watch.look()["hospitals"] == []
    seen = []
    for number in range(1, len(every) + 1):
        line = growing.grow(number)[-1]
        state = watch.look(at(line) + 3)
        assert state == Watch(growing.folder).look(at(line) + 3)
        assert state["heard"] == "last line of the journal 3 seconds ago"
        assert state["journal_lines"] == number and state["journal"][0]["time"] == line["time"]
        seen.append(state["headline"])
    assert list(dict.fromkeys(seen)) == [
        "Measuring the model before training",
        "Round 1 of 2",
        "Round 2 of 2",
        "Finished: 2 rounds",
    ]
    assert [one["round"] for one in state["rounds"]] == [2, 1, 0]
    assert [(one["name"], one["state"], one["rounds"]) for one in state["hospitals"]] == [
        ("hospital-1", "answered", 2),
        ("hospital-2", "answered", 2),
    ]


def test_a_line_that_is_being_written_is_not_read_yet(finished: Path, growing: Growing) -> None:
    lines = lines_of(finished)
    watch, whole = Watch(growing.folder), json.dumps(lines[3])
    growing.grow(3, whole[: len(whole) // 2])
    assert watch.look()["journal_lines"] == 3
    growing.grow(4)
    assert watch.look()["journal_lines"] == 4 and watch.look()["journal"][0]["time"] == lines[3]["time"]


def test_nothing_in_the_folder_is_touched(finished: Path) -> None:
    def stamps() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in sorted(finished.rglob("*"))}

    before = stamps()
    Watch(finished).look()
    assert stamps() == before


@pytest.mark.parametrize(
    ("extra", "state", "code"),
    [
        ([], "asked", None),
        ([{"event": "answered"}], "answered", None),
        ([{"event": "leftout", "code": "no-answer"}], "late", "no-answer"),
        ([{"event": "leftout", "code": "lost"}], "late", "lost"),
        ([{"event": "leftout", "code": "not-finite"}], "refused", "not-finite"),
        ([{"event": "leftout", "code": "absent"}], "absent", "absent"),
        ([{"event": "answered"}, {"event": "leftout", "code": "policy"}], "refused", "policy"),
    ],
)
def test_every_hospital_has_its_state(
    finished: Path, growing: Growing, extra: list[dict[str, Any]], state: str, code: str | None
) -> None:
    begun = next(number for number, line in enumerate(lines_of(finished)) if line.get("round") == 1)
    time = growing.grow(begun + 1)[-1]["time"]
    place = {"time": time, "round": 1, "attempt": 1, "phase": "train", "hospital": "hospital-2"}
    with (growing.folder / "journal.jsonl").open("a") as file:
        file.writelines(json.dumps(place | line) + "\n" for line in extra)
    found = {one["name"]: one for one in Watch(growing.folder).look()["hospitals"]}
    assert (found["hospital-2"]["state"], found["hospital-2"]["code"]) == (state, code)
    assert found["hospital-1"]["state"] == "asked"
    assert found["hospital-2"]["left_out"] == sum(line["event"] == "leftout" for line in extra)


def test_hospitals_of_the_roster_are_there_before_they_are_heard_of(growing: Growing) -> None:
    roster = [{"name": name, "identity_key": digit * 64} for name, digit in (("north", "a"), ("south", "b"))]
    (growing.folder / "study.yaml").write_text(tiny(roster=roster).to_yaml())
    found = Watch(growing.folder).look()["hospitals"]
    assert [(one["name"], one["state"]) for one in found] == [("north", "unseen"), ("south", "unseen")]


def test_silence_and_failure_are_said(finished: Path, growing: Growing) -> None:
    begun = next(number for number, line in enumerate(lines_of(finished)) if line.get("round") == 1)
    line = growing.grow(begun + 1)[-1]
    watch = Watch(growing.folder)
    assert watch.look(at(line) + 599)["headline"] == "Round 1 of 2"
    assert watch.look(at(line) + 7300)["headline"] == "Nothing heard for 2 hours, after round 0 of 2"
    with (growing.folder / "journal.jsonl").open("a") as file:
        failed = {"event": "failed", "time": line["time"], "round": 1, "attempt": 1, "phase": "train", "reason": "few"}
        file.write(json.dumps(failed) + "\n")
    state = watch.look()
    assert state["headline"] == "Round 1 failed: few" and state["journal"][0]["alarming"]


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ({"unit": "none"}, "No differential privacy"),
        (
            {"unit": "patient", "epsilon": 4.0},
            "at most epsilon 4 at delta 1e-05 over all 2 rounds, of which 2",
        ),
        ({"unit": "hospital", "epsilon": 4.0}, "4 at delta 1e-05 spent in 2 sums"),
    ],
)
def test_the_budget_is_told(finished: Path, tmp_path: Path, privacy: dict[str, Any], said: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    extra = {"federation": {"rounds": 2, "weighting": "equal"}} if privacy["unit"] == "hospital" else {}
    (folder / "study.yaml").write_text(tiny(privacy=privacy, **extra).to_yaml())
    assert said in " ".join(Watch(folder).look()["budget"])


@pytest.mark.parametrize(
    ("change", "said"),
    [({}, "until round 9"), ({"margin_ramp": 1.0}, "until round 15"), ({"margin_ramp": 0.0}, ""), ({"mode": "ce"}, "")],
)
def test_a_loss_that_grows_with_its_margin_is_explained(change: dict[str, Any], said: str) -> None:
    """The round that is named is the first with the whole margin, or the last there is."""
    study = tiny(federation={"rounds": 15}, loss=change)
    title = loss_title(study)
    assert title.startswith("Training loss") and title.removeprefix("Training loss").endswith(said)
    assert said or title == "Training loss"
    if said == "until round 9":
        assert [margin_at(study.loss, (number - 1) / 15) == study.loss.margin for number in (8, 9)] == [False, True]


def test_every_kind_of_line_has_its_sentence() -> None:
    place = {"time": "now", "round": 3, "attempt": 2, "phase": "train"}
    lines = {
        "opened": ({"time": "now", "after": 2}, "Opened again after round 2"),
        "started": (place | {"hospitals": ["a", "b"]}, "Round 3, attempt 2 begun with 2 hospitals"),
        "answered": (place | {"hospital": "a"}, "Round 3, attempt 2: a answered (train)"),
        "leftout": (place | {"hospital": "a", "code": "policy"}, "Round 3, attempt 2: a left out (train): policy"),
        "dropped": (place | {"reason": "late"}, "Round 3, attempt 2: a message did not count (train): late"),
        "survived": (place | {"hospitals": ["a"]}, "Round 3, attempt 2: the sum of 1 hospital may be opened"),
        "aggregated": (place | {"answered": ["a"]}, "Round 3, attempt 2: 1 update summed"),
        "checkpointed": (place | {"sha256": "f" * 64}, "Round 3, attempt 2 done; SHA-256 ffffffffffff"),
        "failed": (place | {"reason": "too few"}, "Round 3, attempt 2 failed (train): too few"),
    }
    for event, (line, sentence) in lines.items():
        assert told({"event": event} | line)["text"] == sentence


def test_what_is_no_run_or_damaged_gets_one_line(finished: Path, growing: Growing, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        Watch(tmp_path)
    growing.grow(4)
    client = LocalClient(dashboard_app(Watch(growing.folder), Token(TOKEN)))
    assert client.get("/api/state").json()["journal_lines"] == 4
    with (growing.folder / "journal.jsonl").open("a") as file:
        file.write("no journal\n")
    answer = client.get("/api/state")
    assert answer.status_code == 400 and "is damaged" in answer.json()["error"]
    assert client.get("/api/state", headers={"Authorization": "Bearer other"}).status_code == 401
