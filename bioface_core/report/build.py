"""How is a report computed? From the raw files of a run folder alone, so that anybody can compute it again.

Legend: K syndromes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bioface_core.calibration import Calibration, fit
from bioface_core.evaluate import Counts, difference, macro_top, mean_rate, sensitivity
from bioface_core.report.facts import Arm, Hospital, Mistake, Report, Round, Syndrome, Traffic
from bioface_core.report.run_folder import ArmRecord, RoundRecord, RunFiles, read_run
from bioface_core.report.words import headline, limits, notes
from bioface_core.syndromes import catalogue

_ARM_ORDER = ("alone", "federated", "pooled")
_MISTAKES_SHOWN = 10


def build(folder: Path, names: Mapping[str, str] | None = None) -> Report:
    """Computes the report of a run.

    Args:
        folder: such as ``runs/demo``; the run may be going on, interrupted or finished.
        names: key to the name people read; by default those of this project's catalogue. A key without is its own name.

    Raises:
        RunError: no run there, or a damaged one.
    """
    return report_of(read_run(folder), catalogue_names() if names is None else names)


def report_of(run: RunFiles, names: Mapping[str, str]) -> Report:
    """The report of a run that has been read."""
    final = _final_counts(run)
    arms = _arms(run)
    report = Report(
        study=run.study,
        study_id=run.study.study_id,
        software=run.software,
        rounds_planned=run.study.federation.rounds,
        rounds=tuple(_round(record) for record in run.rounds),
        arms=arms,
        alone_top1=None,
        gain=None,
        distance=None,
        syndromes=_syndromes(run.study.syndromes, final, names),
        confusion=_table(final),
        mistakes=_mistakes(final),
        hospitals=tuple(Hospital(one.name, one.train_patients_K, one.heldout_patients_K) for one in run.hospitals),
        calibration=_calibration(run),
        attacks=run.attacks,
        traffic=_traffic(run.rounds),
    )
    report = _compared(report)
    return replace(report, headline=headline(report), notes=notes(report), limits=limits(report))


def catalogue_names() -> dict[str, str]:
    """Key to the name people read, for every syndrome this project knows."""
    return {key: syndrome.name for key, syndrome in catalogue().syndromes.items()}


def _final_counts(run: RunFiles) -> Counts | None:
    """Of the federated model as it is now: the arm's where it was evaluated, else the last round's."""
    federated = [record.counts for record in run.arms if record.kind == "federated"]
    rounds = [record.counts for record in run.rounds]
    return next(iter(federated + rounds[::-1]), None)


def _calibration(run: RunFiles) -> Calibration | None:
    """Of the last round's model, as whoever asks it is told."""
    if not run.rounds or not run.rounds[-1].counts.reliability.patients:
        return None
    return fit(run.rounds[-1].counts.reliability, run.study.loss)


def _arms(run: RunFiles) -> tuple[Arm, ...]:
    """Hospitals alone, federated, pooled; the federated one from its rounds while ``arms.json`` lacks it."""
    arms = [_arm(record) for record in run.arms]
    if run.rounds and not any(arm.kind == "federated" for arm in arms):
        arms.append(_federated_so_far(run))
    return tuple(sorted(arms, key=lambda arm: _ARM_ORDER.index(arm.kind)))


def _arm(record: ArmRecord) -> Arm:
    top1, top3, top5 = (macro_top(record.counts, k) for k in (1, 3, 5))
    own = None if record.own_counts is None else macro_top(record.own_counts, 1)
    return Arm(
        record.name, record.kind, record.hospital, record.patients, record.photos, record.seconds, top1, top3, top5, own
    )


def _federated_so_far(run: RunFiles) -> Arm:
    top1, top3, top5 = (macro_top(run.rounds[-1].counts, k) for k in (1, 3, 5))
    patients = sum(sum(hospital.train_patients_K) for hospital in run.hospitals) or None
    seconds = sum(record.seconds for record in run.rounds)
    return Arm("federated", "federated", None, patients, None, seconds, top1, top3, top5, None)


def _round(record: RoundRecord) -> Round:
    return Round(
        record.round,
        record.seconds,
        record.loss if record.loss is not None and math.isfinite(record.loss) else None,
        record.answered,
        record.refused,
        record.bytes_down,
        record.bytes_up,
        macro_top(record.counts, 1),
        macro_top(record.counts, 3),
        record.hospital_bytes,
    )


def _traffic(rounds: Sequence[RoundRecord]) -> tuple[Traffic, ...]:
    """What went over each hospital's line, in the order in which they were first asked."""
    hospitals = dict.fromkeys(name for record in rounds for name in record.hospital_bytes)
    return tuple(_traffic_of(name, rounds) for name in hospitals)


def _traffic_of(hospital: str, rounds: Sequence[RoundRecord]) -> Traffic:
    asked = [record for record in rounds if hospital in record.hospital_bytes]
    down, up = (sum(record.hospital_bytes[hospital][way] for record in asked) for way in (0, 1))
    trained = [record.hospital_bytes[hospital] for record in asked if record.round > 0]
    down_mean, up_mean = (sum(moved[way] for moved in trained) / max(1, len(trained)) for way in (0, 1))
    return Traffic(hospital, down_mean, up_mean, down, up)


def _syndromes(keys: tuple[str, ...], final: Counts | None, names: Mapping[str, str]) -> tuple[Syndrome, ...]:
    rates = sensitivity(Counts.zeros(len(keys)) if final is None else final)
    return tuple(Syndrome(key, names.get(key, key), rate) for key, rate in zip(keys, rates, strict=True))


def _table(final: Counts | None) -> tuple[tuple[int, ...], ...]:
    return () if final is None else tuple(tuple(row) for row in final.confusion_KK.tolist())


def _mistakes(final: Counts | None) -> tuple[Mistake, ...]:
    """The cells beside the diagonal with most patients; of equals, the larger share of its syndrome first."""
    if final is None:
        return ()
    patients = final.patients_K.tolist()
    cells = [(true, said) for true, said in final.confusion_KK.nonzero().tolist() if true != said]
    mistakes = [Mistake(true, said, int(final.confusion_KK[true, said]), patients[true]) for true, said in cells]
    return tuple(sorted(mistakes, key=lambda one: (-one.patients, one.of, one.true))[:_MISTAKES_SHOWN])


def _compared(report: Report) -> Report:
    """``report`` with what federating gained over going alone, and what pooling would add, where both are known."""
    alone = mean_rate([arm.top1 for arm in report.alone]) if report.alone else None
    federated, pooled = report.federated, report.pooled
    return replace(
        report,
        alone_top1=alone,
        gain=difference(federated.top1, alone) if federated and alone else None,
        distance=difference(pooled.top1, federated.top1) if federated and pooled else None,
    )
