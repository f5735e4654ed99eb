"""What runs a study at the lab? The ServerApp process: it takes the SuperLink's task and runs our installed code.

Nothing is unpacked from the bundle here either. The process goes on from wherever the run folder says the run stands,
so that whoever starts it again after a kill resumes the run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from bioface_core.checkpoint import open_run
from bioface_core.config import Study
from bioface_core.errors import BioFaceError
from bioface_core.files import write_text
from bioface_core.learner import Learner, use
from bioface_core.logs import say
from bioface_core.start import read_start
from server.app import make_server_app
from server.grid import Admin, server_task
from server.journal import Answered, LeftOut
from server.lab import Lab
from server.rounds import Event, RoundDone, RunState

_log = logging.getLogger("bioface.server")


def run_ordered_study(lab: Lab) -> None:
    """Runs the study that `bioface lab serve` was told to run, and leaves a line that says how it ended.

    Raises:
        BioFaceError: as ``run_study``.
    """
    reason = "an unforeseen error: see the log"
    try:
        run_study(lab, lab.ordered_study())
        reason = ""
    except BioFaceError as error:
        reason = str(error)
        raise
    finally:
        write_text(lab.outcome_file, json.dumps({"reason": reason}))


def run_study(lab: Lab, study: Study) -> RunState:
    """Runs a study to its last round.

    Args:
        lab: with its SuperLink up.
        study: issued, with its roster.

    Raises:
        RoundError: a round had too few answers; start again to go on.
        RunError: the run folder is another study's, in use, damaged, or the disk is full.
        WeightsError, PhotoError: the start folder is not what the study names.
    """
    ends: list[RunState] = []
    start = read_start(lab.start, study)
    learner = Learner(study, start.base, start.identities, use(study.speed.model_copy(update={"device": "cpu"})))
    with open_run(lab.runs / study.name, study) as folder:
        hospitals = hospitals_by_node(lab, study)
        app = make_server_app(study, learner, folder, hospitals, _tell, ends.append)
        with server_task(lab.admin, lab.bundle.read_bytes(), lab.bundle_sha256) as (grid, context):
            app(grid, context)
    return ends[0]


def hospitals_by_node(lab: Lab, study: Study) -> Mapping[int, str]:
    """The study's hospitals by node, revoked ones too: they count for the quorum and cannot connect."""
    keys = {enrolled.node_public_bytes: enrolled.name for enrolled in lab.roster()}
    admin = Admin(lab.admin)
    nodes = admin.nodes()
    admin.close()
    wanted = {member.name for member in study.roster}
    return {node.node_id: keys[key] for key, node in nodes.items() if keys.get(key) in wanted}


def _tell(event: Event) -> None:
    """One line for what an administrator wants to see."""
    if isinstance(event, RoundDone):
        summary = event.summary
        counted = {"answered": len(summary.answered), "left_out": len(summary.refused)}
        moved = {"bytes_up": summary.bytes_up, "bytes_down": summary.bytes_down}
        say(_log, "round", round=summary.round, seconds=summary.seconds, **counted, **moved)
    elif isinstance(event, LeftOut):
        say(_log, "left-out", logging.WARNING, round=event.round, hospital=event.hospital, code=event.code)
    elif isinstance(event, Answered):
        say(_log, "answered", round=event.round, phase=event.phase, hospital=event.hospital)
