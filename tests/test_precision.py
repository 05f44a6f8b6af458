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
    """A network that tells how many seconds it takes, and gives other scores in bfloat16 if asked.

    Its clock goes on only while it runs, so that the tests depend on no machine's load.

    Args:
        seconds: For a run with channels first and last in float32, and for one in bfloat16.
        per_sample: Whether these are the seconds for one sample.
        half: What is added to scores in bfloat16.
        extra: Seconds that a run in bfloat16 takes more, whatever it runs on.
    """

    def __init__(
        self,
        *seconds: float,
        per_sample: bool = False,
        half: Tensor | None = None,
        extra: float = 0.0,
    ) -> None:
        self.seconds, self.per_sample, self.extra = seconds, per_sample, extra
        self.half = torch.zeros(1, 4) if half is None else half
        self.now = 0.0
        self.samples: dict[str, set[int]] = {}

    def clock(self) -> float:
        return self.now

    def __call__(self, images: Tensor) -> Tensor:
        number = 2 if is_bfloat16() else int(is_last(images))
        self.now += self.seconds[number] * (len(images) if self.per_sample else 1)
        self.now += self.extra if number == 2 else 0.0
        self.samples.setdefault(("first", "last", "half")[number], set()).add(len(images))
        scores = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(len(images), 1)
        return scores + self.half[: len(images)] if number == 2 else scores


def changed(count: int) -> Tensor:
    """What gives so many of 50 samples another class."""
    added = torch.zeros(50, 4)
    added[:count, 1] = 1.5
    return added


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
        (Timed(0.01, 0.02, 0.008), HALF),
        # A tenth faster is not clearly faster, and neither is half a millisecond.
        (Timed(0.0181, 0.02, 0.0181), LAST),
        (Timed(0.0179, 0.02, 0.02), FIRST),
        (Timed(0.0005, 0.001, 0.0005), LAST),
        # One of 50 samples may change its class, two may not.
        (Timed(0.02, 0.02, 0.01, half=changed(1)), HALF),
        (Timed(0.02, 0.02, 0.01, half=changed(2)), LAST),
        (Timed(0.01, 0.02, 0.008, half=changed(2)), FIRST),
    ],
)
def test_the_fastest_format_that_agrees_is_chosen(timed: Timed, expected: Format) -> None:
    choice = measure(timed, BATCH, clock=timed.clock)
    assert choice.format == expected
    names = (str(FIRST), str(LAST), str(HALF))
    assert choice.seconds == pytest.approx(dict(zip(names, timed.seconds, strict=True)))
    if expected == HALF:
        assert choice.changed == pytest.approx(float(timed.half.any(1).sum()) / 50)
        assert choice.difference == pytest.approx(float(timed.half.max()))


def test_a_hopelessly_slow_format_is_tried_on_two_samples_only() -> None:
    timed = Timed(0.004, 0.004, 0.02, per_sample=True)
    choice = measure(timed, BATCH, clock=timed.clock)
    assert timed.samples == {"first": {2, 25}, "last": {2, 8, 25}, "half": {2}}
    assert choice.samples == 25
    assert choice.seconds[str(HALF)] == pytest.approx(25 * 0.02)


@pytest.mark.parametrize(
    ("seconds", "samples", "on_the_way"),
    [(1.0, 2, 0), (0.01, 10, 8 + 10), (0.001, 50, 8 + 32 + 50)],
    ids=["slow", "fair", "fast"],
)
def test_the_slower_a_network_the_fewer_samples_it_is_measured_on(
    seconds: float, samples: int, on_the_way: int
) -> None:
    timed = Timed(seconds, seconds, seconds, per_sample=True)
    assert measure(timed, BATCH, clock=timed.clock).samples == pytest.approx(samples, abs=1)
    # Three formats, twice on two samples and six times on a tenth of a second, at the most, and
    # one of them twice on each number of samples that is tried on the way.
    tried = 2 * seconds * on_the_way
    assert timed.now < 3 * (4 * seconds + 6 * max(0.1, 2 * seconds)) + tried + 1e-6


def test_more_samples_show_what_a_few_do_not() -> None:
    few = Timed(0.02, 0.02, 0.01, per_sample=True, extra=0.05)
    choice = measure(few, BATCH, clock=few.clock)
    assert (choice.samples, choice.format) == (5, LAST)
    many = Timed(0.02, 0.02, 0.01, per_sample=True, extra=0.05)
    choice = measure(many, BATCH, seconds=1.0, clock=many.clock)
    assert (choice.samples, choice.format) == (50, HALF)
    # All formats run twice on two samples, the quickest twice on 8, 32 and 50, all three times on
    # 50; then the scores of two are compared.
    on_few, on_the_way = 2 * (0.04 + 0.04 + 0.07), 2 * 0.02 * (8 + 32 + 50)
    assert many.now == pytest.approx(on_few + on_the_way + 3 * (1.0 + 1.0 + 0.55) + 1.0 + 0.55)


@pytest.mark.parametrize(("error", "expected"), [(0.05, HALF), (0.5, LAST)])
def test_training_asks_for_scores_that_are_close(error: float, expected: Format) -> None:
    half = torch.tensor([[0.0, error, 0.0, 0.0]])
    timed = Timed(0.02, 0.02, 0.01, half=half)
    assert measure(timed, BATCH, by_scores=True, clock=timed.clock).format == expected


@pytest.mark.parametrize("by_scores", [False, True])
def test_scores_that_are_no_numbers_are_refused(by_scores: bool) -> None:
    half = torch.tensor([[0.0, float("nan"), 0.0, 0.0]])
    timed = Timed(0.02, 0.02, 0.01, half=half)
    assert measure(timed, BATCH, by_scores=by_scores, clock=timed.clock).format == LAST


def test_on_the_machine_s_own_clock_a_network_is_measured() -> None:
    model = tiny()
    with torch.no_grad():
        choice = measure(model, IMAGES)
    assert choice.format in (LAST, FIRST, HALF)
    assert all(seconds > 0 for seconds in choice.seconds.values())


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


def test_a_format_that_cannot_be_run_is_not_chosen() -> None:
    def run(batch: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise NotImplementedError("no kernel for this device")
        return batch.flatten(1)

    choice = measure(run, torch.randn(4, 1, 4, 4))
    assert choice.format.precision == "float32"
    assert not any("bfloat16" in name for name in choice.seconds)


def test_a_network_that_cannot_run_at_all_says_so_itself() -> None:
    def run(_batch: Tensor) -> Tensor:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        measure(run, torch.randn(4, 1, 4, 4))
