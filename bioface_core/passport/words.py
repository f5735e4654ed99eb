"""How is it told that a model was sealed, or that a seal holds?"""

from __future__ import annotations

from bioface_core.passport.export import Exported
from bioface_core.passport.seal import Sealed


def exported(made: Exported) -> str:
    """What was made, and what to hand on with it."""
    return (
        f"{made.folder} is sealed. The card: {made.folder / 'card.html'}\n"
        f"model.onnx answers as the model does, to {made.card.off:.0e}.\n"
        f"Signer: {made.sealed.signer}\n"
        "Give this key to whoever gets the model by another way than the model itself."
    )


def verified(found: Sealed, signer: str | None) -> str:
    """What holds, and what was not asked."""
    lines = [f"All {len(found.files)} files are as they were sealed.", f"Signer: {found.signer}"]
    if signer is None:
        lines.append("Nobody said whose key that should be: compare it with the lab's, or name that with --signer.")
    return "\n".join(lines)
