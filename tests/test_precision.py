import time

import pytest
import torch
from pruning import samples, tiny
from torch import Tensor

from amc_env.precision import Choice, Format, fixed, measure

IMAGES = samples(50).inputs


def is_last(images: Tensor) -> bool:
    # With one channel, strides cannot say; the tests' images get two.
    return images.is_contiguous(memory_format=torch.channels_last)


def is_bfloat16() -> bool:
    return torch.is_autocast_enabled("cpu")


class Timed:
    """Scores that take a time of their own in each format, and differ in bfloat16 if asked."""

    def __init__(self, first: float, last: float, half: float, *, wrong: int = 0) -> None:
        self.seconds = {"first": first, "last": last, "half": half}
        self.wrong = wrong
        self.samples: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        name = "half" if is_bfloat16() else "last" if is_last(images) else "first"
        time.sleep(self.seconds[name])
        self.samples.append(len(images))
        scores = images.flatten(1)[:, :4].clone()
        scores[:, 0] = 10.0
        if name == "half":
            scores[: self.wrong, 1] = 20.0
        return scores


BATCH = torch.randn(50, 2, 8, 8, generator=torch.Generator().manual_seed(0))
LAST, FIRST = Format(), Format(channels_last=False)
HALF = Format(precision="bfloat16")


@pytest.mark.parametrize(
    ("timed", "expected"),
    [
        (Timed(0.02, 0.02, 0.02), LAST),
        (Timed(0.02, 0.02, 0.01), HALF),
        (Timed(0.01, 0.02, 0.02), FIRST),
        (Timed(0.02, 0.01, 0.02), LAST),
        (Timed(0.01, 0.02, 0.004), HALF),
        # One of 50 samples may change its class, two may not.
        (Timed(0.02, 0.02, 0.01, wrong=1), HALF),
        (Timed(0.02, 0.02, 0.01, wrong=2), LAST),
        (Timed(0.01, 0.02, 0.004, wrong=2), FIRST),
    ],
)
def test_the_fastest_format_that_agrees_is_chosen(timed: Timed, expected: Format) -> None:
    choice = measure(timed, BATCH)
    assert choice.format == expected
    assert set(choice.seconds) == {str(LAST), str(FIRST), str(HALF)}
    assert choice.changed == pytest.approx(timed.wrong / 50 if expected == HALF else 0.0)
    assert choice.difference == (1.9 if expected == HALF and timed.wrong else 0.0) or timed.wrong


def test_a_hopelessly_slow_format_is_tried_on_two_samples_only() -> None:
    sizes: list[int] = []

    def run(images: Tensor) -> Tensor:
        if is_bfloat16():
            sizes.append(len(images))
        time.sleep((0.01 if is_bfloat16() else 0.0005) * len(images))
        return images.flatten(1)[:, :4]

    choice = measure(run, BATCH)
    assert set(sizes) == {2}
    assert choice.samples > 2
    assert choice.seconds[str(HALF)] > 5 * choice.seconds[str(LAST)]


def test_a_slow_network_is_measured_on_few_samples() -> None:
    timed = Timed(0.06, 0.06, 0.06)
    assert measure(timed, BATCH).samples < 10
    assert max(timed.samples) < 10


def test_training_asks_for_scores_that_are_close() -> None:
    def run(images: Tensor, *, error: float) -> Tensor:
        time.sleep(0.004 if is_bfloat16() else 0.01)
        # No sample has a best class that a small difference would not change.
        scores = torch.ones(len(images), 4)
        scores[:, 2 if is_bfloat16() else 1] += error
        return scores

    for error, expected in ((0.01, HALF), (0.5, LAST)):
        choice = measure(lambda x, e=error: run(x, error=e), BATCH, is_training=True)
        assert choice.format == expected
    assert measure(lambda x: run(x, error=0.01), BATCH).format == LAST


def test_scores_that_are_no_numbers_agree_with_nothing() -> None:
    def run(images: Tensor) -> Tensor:
        time.sleep(0.004 if is_bfloat16() else 0.01)
        return torch.full((len(images), 4), float("nan") if is_bfloat16() else 1.0)

    assert measure(run, BATCH, is_training=True).format == LAST


def test_a_measurement_leaves_random_numbers_as_they_were() -> None:
    state = torch.get_rng_state()
    measure(lambda x: x.flatten(1)[:, :4] + torch.rand(4), BATCH)
    assert torch.equal(torch.get_rng_state(), state)


def test_inputs_that_are_no_images_have_one_layout() -> None:
    choice = measure(lambda x: x, torch.randn(20, 4))
    assert set(choice.seconds) == {str(LAST), str(HALF)}


def test_formats_arrange_and_compute() -> None:
    assert is_last(LAST.arrange(BATCH))
    assert FIRST.arrange(LAST.arrange(BATCH)).is_contiguous()
    rows = torch.randn(3, 4).T
    assert LAST.arrange(rows) is rows
    with HALF.computing(BATCH.device), torch.no_grad():
        assert tiny()(IMAGES).dtype is torch.bfloat16
    with LAST.computing(BATCH.device), torch.no_grad():
        assert tiny()(IMAGES).dtype is torch.float32


def test_a_choice_says_what_was_measured() -> None:
    assert fixed("auto") is None
    assert str(fixed("float32")) == "float32 with channels last"
    assert fixed("bfloat16") == Choice(format=HALF)
    made = Choice(
        format=HALF, samples=16, seconds={str(LAST): 0.02, str(HALF): 0.01},
        difference=0.0123, changed=0.01,
    )  # fmt: skip
    assert str(made) == (
        "bfloat16 with channels last, measured on 16 samples (20 ms float32 with channels last, "
        "10 ms bfloat16 with channels last); scores differ by 0.012, classes of 1.0%"
    )
