"""Twenty thousand damaged picture files: no exception but `BadPicture`, none that a decoder hangs on."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
odd = importlib.import_module("test_odd_pictures")

pytestmark = pytest.mark.proof

PER_SEED = 2000


@pytest.mark.parametrize("seed", range(1, 11))
def test_damage_is_refused_or_decoded(seed: int) -> None:
    """Each of the corpus is damaged in every run; a file that decodes is a uint8 picture of one or three channels."""
    outcomes = odd.try_damaged(PER_SEED, seed)
    assert sum(outcomes.values()) == PER_SEED
    assert outcomes["a picture"] > 0  # the damage is not so gross that nothing but the first check is tested
    assert len(outcomes) > 5  # … and is found in many places
    print(seed, dict(sorted(outcomes.items(), key=lambda item: -item[1])))
