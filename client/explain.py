"""How is a study explained to a hospital? In plain words, for its IT engineer and its data protection officer.

What will be computed, on which patients, what leaves, what never does, what it costs, in privacy and otherwise,
what stands against it, and what it does not protect from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bioface_core.config import Study
from bioface_core.report.words import plural
from bioface_core.syndromes import catalogue
from client.policy import Policy, is_private
from client.review import Review

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

_PATIENTS = "On which of this hospital's patients (these numbers are shown here only)"
_MODES = {
    "ce": "a linear classifier",
    "arcface": "one typical face per syndrome, with a margin between them (ArcFace)",
    "joint": "one typical face per syndrome, to which its patients are drawn (ArcFace and pull)",
    "cross-sum": "one typical face per syndrome, and the telling apart of public people in the same step (cross-loss)",
    "cross-alternate": "one typical face per syndrome, and the telling apart of public people in turn (cross-loss)",
}
_NEVER_LEAVES = (
    "photos, aligned faces and embeddings of single patients",
    "patient numbers, file names, age, sex, ancestry",
    "private keys, this hospital's policy and its logs",
)
_LIMITS = (
    "The lab sees when this hospital is connected, from which address, and how long it takes.",
    "What has left cannot be called back: revoking an approval ends the next round, not the last.",
)
_PLAIN = (
    "The lab sees this hospital's updates as they are: this study does not mask them (secure.enabled is false). A "
    "dishonest lab can send a network made to draw more out of them."
)
_MASKED = (
    "The lab sees sums over hospitals alone, as long as too few of them help it to open more: what holds and what does "
    "not is in docs/privacy.md."
)
_NOT_PRIVATE = (
    "There is no differential privacy for patients in this study. Whoever has the updates or the final model might "
    "infer that a certain patient took part, and in the worst case features of faces. Rounding protects numbers, not "
    "this."
)
_PRIVATE = (
    "Noise covers the training patients. The counts of held-out patients are rounded and have none, and the number of "
    "training patients counts as public once it is rounded."
)


def describe(review: Review) -> Group:
    """A review as text for a terminal, with a table of what the hospital holds."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"Study {review.study.name}, for {review.hospital}", style="bold")]
    for heading, lines in sections(review):
        parts.append(Text(f"\n{heading}", style="bold cyan"))
        parts += [Padding(Text(line), (0, 0, 0, 2)) for line in lines]
        if heading == _PATIENTS:
            parts.append(_table(review))
    return Group(*parts)


def sections(review: Review) -> list[tuple[str, list[str]]]:
    """Headings and their sentences, in the order of the questions that a hospital asks."""
    return [
        ("Who takes part", _members(review)),
        ("What is computed here", _work(review.study)),
        (_PATIENTS, _patients(review)),
        ("What leaves this hospital", _leaves(review)),
        ("What never leaves", _never_leaves(review)),
        ("What it costs in privacy", _privacy(review)),
        ("What it costs", _costs(review)),
        ("Which code", _code(review)),
        ("What this does not protect from", _limits(review.study)),
        ("What stands against it", list(review.obstacles) or ["Nothing: the study keeps to this hospital's policy."]),
        ("What to do", _next_step(review)),
    ]


def _members(review: Review) -> list[str]:
    names = [member.name for member in review.study.roster]
    quorum = 100 * review.study.federation.quorum
    return [
        f"The lab at {review.lab}, and {plural(len(names), 'hospital')}: {', '.join(names) or 'nobody is named'}.",
        f"A round counts if {quorum:.0f} % of them answer. The study's id is {review.study.study_id}.",
    ]


def _work(study: Study) -> list[str]:
    crosses_alone = study.loss.mode.startswith("cross") and not study.loss.identifies
    mode = "joint" if crosses_alone else study.loss.mode
    return [
        f"In each of {plural(study.federation.rounds, 'round')} the lab sends the shared network. To learn, it "
        f"{_training(study)}; then it is tried on its held-out patients.",
        f"It learns {_MODES[mode]}, for {plural(len(study.syndromes), 'syndrome')}.",
        "Every setting is in the kit's study.yaml; no message of the lab can change one.",
    ]


def _training(study: Study) -> str:
    if is_private(study):
        steps = plural(study.privacy.steps, "step")
        return f"takes {steps}, each on one photo of about {study.privacy.batch} training patients drawn at random"
    passes = "once" if study.train.epochs == 1 else f"{study.train.epochs} times"
    return f"goes {passes} over the photos of this hospital's training patients"


def _patients(review: Review) -> list[str]:
    used = [held for held in review.held if held.takes_part]
    train, photos = sum(held.train_patients for held in used), sum(held.train_photos for held in used)
    heldout = sum(held.heldout_patients for held in used)
    lines = [
        f"{plural(train, 'training patient')} with {plural(photos, 'photo')}, and "
        f"{plural(heldout, 'held-out patient')}, of {len(used)} of the study's {len(review.held)} syndromes.",
    ]
    if len(used) < len(review.held):
        fewest = review.policy.fewest_patients_per_class
        lines.append(
            f"Syndromes with fewer than {fewest} training patients (policy.fewest_patients_per_class) are left"
        )
        lines[-1] += " out: nothing is computed on their photos."
    return lines


def _leaves(review: Review) -> list[str]:
    policy, study = review.policy, review.study
    classes = (
        ""
        if study.privacy.unit != "none"
        else "; and, for each syndrome, whether training patients of it take part here"
    )
    leaves = [
        f"The update: {review.values:,} numbers in each round, by how much training here changed the shared network, "
        f"shortened to a length of {study.update_bound:g} at most.",
        f"The weight {review.weight}: {_weight_rule(study)}{classes}.",
        *([] if is_private(study) else [f"The mean loss of the training, {_loss_rule(policy)}."]),
        "How many held-out patients of each syndrome were recognised, or taken for which other, "
        f"{_count_rule(policy)}.",
    ]
    name = f"The name {review.hospital}, and, where it cannot answer, one word of a fixed list. Nothing else."
    masked = "All but the name is masked: the lab can open the sum over the hospitals alone."
    lines = [*leaves, *([masked] if study.secure.enabled else []), name]
    return [f"{number}. {line}" for number, line in enumerate(lines, start=1)]


def _never_leaves(review: Review) -> list[str]:
    federation = review.study.federation
    tells_none = federation.weighting == "equal" and not is_private(review.study)  # a private study's noise tells it
    weight_is_coarse = tells_none or federation.weight_step > 1
    rounded = review.policy.count_step > 1 and weight_is_coarse
    return [*_NEVER_LEAVES, "an exact number of patients or photos"] if rounded else list(_NEVER_LEAVES)


def _weight_rule(study: Study) -> str:
    if study.federation.weighting == "equal":
        return "every hospital counts the same"
    return f"the number of training patients, rounded up to a multiple of {study.federation.weight_step}"


def _loss_rule(policy: Policy) -> str:
    return f"to a multiple of {policy.loss_step:g}" if policy.loss_step else "as it is (policy.loss_step is 0)"


def _count_rule(policy: Policy) -> str:
    if policy.count_step == 1:
        return "exactly (policy.count_step is 1)"
    return f"rounded at random to multiples of {policy.count_step}"


def _privacy(review: Review) -> list[str]:
    """The forecast, in words."""
    found, policy = review.forecast, review.policy
    if found is None:
        return ["Nothing is promised to a patient: the study trains without differential privacy for each of them."]
    limit = "sets no limit" if policy.epsilon is None else f"allows {policy.epsilon:g}"
    return [
        "Whatever is concluded from the updates about one patient, there or not, is at most exp(epsilon) times as "
        f"likely as without them, but for a share delta of luck ({review.study.privacy.delta:g}).",
        *(
            f"After {plural(after.rounds, 'round')}, epsilon is {after.study:.2f} by this study alone, and "
            f"{after.in_all:.2f} with all that these patients have lost before, for the worst-off at delta "
            f"{policy.delta:g}; the policy {limit}."
            for after in found.after
        ),
        f"The noise of one step is {_times(found.noise_to_signal)} as long as the longest possible sum of "
        f"{found.patients_per_step:.0f} patients' gradients. More patients here make that less, and so do fewer values "
        "that train (model.trainable).",
    ]


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def _limits(study: Study) -> list[str]:
    """What a study does not protect from."""
    seen = _MASKED if study.secure.enabled else _PLAIN
    return [seen, _PRIVATE if is_private(study) else _NOT_PRIVATE, *_LIMITS]


def _costs(review: Review) -> list[str]:
    traffic, federation = review.traffic, review.study.federation
    return [
        f"In each round {_megabytes(traffic.down_per_round)} come in and {_megabytes(traffic.up_per_round)} go out; in "
        f"all {plural(federation.rounds, 'round')}, {_megabytes(traffic.down_in_all)} and "
        f"{_megabytes(traffic.up_in_all)}.",
        "How long a round takes here is not known before the first one; the lab waits "
        f"{federation.deadline_s:g} seconds for an answer, then goes on without it.",
        f"On the disk, the last answers: {_megabytes(traffic.up_per_round)}.",
        *_residuals(review),
    ]


def _residuals(review: Review) -> list[str]:
    """What rounding to few bits leaves here."""
    bits = review.study.federation.update_bits
    if bits == 32:
        return []
    return [
        f"Updates leave in {bits} bits a value. What rounding leaves behind of the last two rounds, "
        f"{_megabytes(8 * review.values)}, stays here in state/residuals: it follows from photos, and never leaves."
    ]


def _code(review: Review) -> list[str]:
    bundle = review.study.bundle_sha256
    same = {
        True: "It is the code that is installed here.",
        False: "It is NOT the code that is installed here: ask the lab which version it runs, and compare.",
        None: "Whether it is the code that is installed here is not known.",
    }[review.same_code]
    return [
        f"The lab's bundle has the SHA-256 {bundle}. {same}" if bundle else "The study names no bundle of the lab.",
        "The lab's code never runs here: this hospital answers with what it installed itself, and only while the lab "
        "shows the bundle that was approved.",
    ]


def _next_step(review: Review) -> list[str]:
    refuse = "To refuse, do nothing: what is not approved is not answered."
    if review.obstacles:
        return ["As things stand, every question of this study is refused, approved or not.", refuse]
    return [
        f"To take part: bioface hospital approve KIT. It approves study {review.study.study_id[:12]} alone.",
        refuse,
    ]


def _table(review: Review) -> Table:
    """What the hospital holds of each syndrome."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.add_column("Syndrome")
    for heading in ("Training patients", "photos", "Held-out patients", "photos"):
        grid.add_column(heading, justify="right")
    grid.add_column("Takes part")
    for held in review.held:
        numbers = (held.train_patients, held.train_photos, held.heldout_patients, held.heldout_photos)
        name = Text(_title(held.syndrome))
        grid.add_row(name, *(f"{number:,}" for number in numbers), "yes" if held.takes_part else "no, too few")
    return grid


def _title(syndrome: str) -> str:
    """What people call it, where it is a syndrome of the catalogue."""
    known = catalogue().syndromes.get(syndrome)
    return syndrome if known is None else known.name


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
