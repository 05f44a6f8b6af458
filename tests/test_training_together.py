"""Gradients that are summed up over batches or processes are those of one large batch."""

from dataclasses import replace
from pathlib import Path

import pytest
from trained_together import Weights, images, trained, trained_by

from amc_env.models import build_model
from amc_env.training import TrainingSettings, fit_

# 41 samples in steps of 13 or 14, so that neither steps nor batches are all of one size.
WHOLE = TrainingSettings(
    epochs=2, batch=12, learning_rate=0.05, clip=1.0, distil=0.5, precision="float32"
)
# Sums of float32 in another order.
TOLERANCE = 2e-6


def furthest(one: Weights, other: Weights) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_accumulated_batches_are_one_large_batch() -> None:
    weights, loss = trained(WHOLE)
    for accumulate in (2, 3):
        parts = replace(WHOLE, batch=12 // accumulate, accumulate=accumulate)
        found, its_loss = trained(parts)
        assert furthest(found, weights) < TOLERANCE
        assert its_loss == pytest.approx(loss, rel=1e-5)
    # The test would not see a step that is left out otherwise.
    assert furthest(build_model("lenet5", seed=0).state_dict(), weights) > 100 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_are_one_with_twice_the_batch(accumulate: int, tmp_path: Path) -> None:
    weights, loss = trained(WHOLE)
    half = replace(WHOLE, batch=6 // accumulate, accumulate=accumulate)
    (first, first_loss), (second, second_loss) = trained_by(2, half, tmp_path)
    assert furthest(first, second) == 0.0
    assert first_loss == second_loss
    assert furthest(first, weights) < TOLERANCE
    assert first_loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
def test_two_processes_augment_images_of_their_own_and_stay_together(tmp_path: Path) -> None:
    settings = replace(WHOLE, batch=6, shift=1, flip=True)
    (first, _), (second, _) = trained_by(2, settings, tmp_path)
    assert furthest(first, second) == 0.0
    assert all(x.isfinite().all() for x in first.values())


def test_more_batches_than_samples_are_refused() -> None:
    settings = TrainingSettings(epochs=1, batch=1, accumulate=5, precision="float32")
    with pytest.raises(ValueError, match="a step sums up 5 batches, but an epoch has 3 samples"):
        fit_(build_model("lenet5", seed=0), images(3), settings)
    with pytest.raises(ValueError, match="accumulate is 0; it must be at least 1"):
        TrainingSettings(accumulate=0)


def test_the_learning_rate_is_for_whole_steps() -> None:
    # Too few samples for a whole step make batches and rate smaller in proportion.
    few = replace(WHOLE, batch=41, accumulate=2, distil=0.0, clip=None)
    models = [build_model("lenet5", seed=0) for _ in range(2)]
    fit_(models[0], images(), few)
    fit_(models[1], images(), replace(few, batch=41, accumulate=1, learning_rate=0.025))
    assert furthest(*(model.state_dict() for model in models)) < TOLERANCE
