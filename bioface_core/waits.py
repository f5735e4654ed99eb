"""How long does Flower wait before it looks again? Hard-coded seconds, shortened here for both sides of the wire.

Flower 1.41 waits 1 to 10 s for an object that is still on its way and up to 20 s between two attempts to connect; a
round of ours takes less. Each name below is Flower's own; tests/test_flower_contract.py says what an upgrade broke.
"""

from __future__ import annotations

from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.retry import http_retry

_FIRST_S, _LONGEST_S = 0.02, 0.5
_RECONNECT_S = 2
_AT_ONCE = 4  # chunks of 5 MiB on their way; more do not go faster and cost memory

_PULLS = (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree)
_PUSHES = (inflatable_utils.push_objects, inflatable_utils.push_object_contents_from_iterable)


def shorten_waits() -> None:
    """Changes the defaults in this process; before the first transfer."""
    for pull in _PULLS:
        _defaults(pull).update(initial_backoff=_FIRST_S, backoff_cap=_LONGEST_S, max_concurrent_pulls=_AT_ONCE)
    for push in _PUSHES:
        _defaults(push).update(max_concurrent_pushes=_AT_ONCE)
    vars(http_retry)["MAX_RETRY_DELAY"] = _RECONNECT_S


def _defaults(function: object) -> dict[str, object]:
    defaults = getattr(function, "__kwdefaults__", None)
    assert isinstance(defaults, dict), f"{function} has no keyword defaults any more"
    return defaults
