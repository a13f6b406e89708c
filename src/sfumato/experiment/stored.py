"""What a checkpoint's `state.json` must say before anything is made of it.

Its bytes are known to be those that were written, but another version may have written other keys.
"""

from sfumato.errors import CheckpointError
from sfumato.training.checkpoint import Snapshot

__all__ = ["RESUMED", "SAMPLED", "require_state"]

SAMPLED: dict[str, type | tuple[type, ...]] = {"data": dict, "ema_decay": (int, float)}
RESUMED: dict[str, type | tuple[type, ...]] = {
    **SAMPLED,
    "experiment": dict,
    "ema_updates": dict,
    "log_window": dict,
    "threads": int,
    "processes": int,
    "device": str,
    "precision": str,
    "versions": dict,
}


def require_state(snapshot: Snapshot, needed: dict[str, type | tuple[type, ...]]) -> None:
    """Refuse a state that lacks one of the `needed` keys or holds something else there. Raises CheckpointError."""
    state = snapshot.state
    bad = [key for key, kind in needed.items() if not isinstance(state.get(key), kind)]
    if "ema_updates" in needed and not bad:
        window = state["log_window"]
        sums, count = window.get("loss_sums"), window.get("count")
        if not isinstance(state["ema_updates"].get(str(state["ema_decay"])), int):
            bad.append("ema_updates")
        numbers = isinstance(sums, list) and len(sums) > 0 and all(isinstance(x, int | float) for x in sums)
        if not numbers or not isinstance(count, int):
            bad.append("log_window")
    if bad:
        raise CheckpointError(
            f"the state.json of the checkpoint of step {snapshot.step} lacks {', '.join(bad)}, or holds them otherwise",
            expected=", ".join(needed) + ", as this version writes them",
            fix="use the version of sfumato that wrote it, or another checkpoint of the run",
        )
