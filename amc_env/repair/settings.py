"""How weights are repaired."""

from dataclasses import dataclass
from typing import Literal, get_args

from amc_env.calibration.rows import RowSampling
from amc_env.names import check_name
from amc_env.repair.plan import DEFAULT_RIDGE
from amc_env.repair.sequential import SequentialSettings

Repair = Literal["none", "plain", "sequential"]


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """How weights are repaired.

    Attributes:
        repair: How the layers that read pruned channels get new weights in every episode.
            ``sequential`` solves layer by layer on the activations of the pruned network itself,
            as the network that is kept in the end is repaired; ``plain`` solves all layers on the
            activations of the original network, and the network that is kept in the end layer by
            layer. ``none`` leaves the weights of the channels that stay as they are, in the network
            that is kept too.
        sampled_positions: Random output positions of each map that count; all if None.
        ridge: Pull towards the original weights, relative to the mean square of an input.
        rows_per_input: With so many rows for each input of a layer, the sequential repair is pulled
            towards the weights of the plain repair by the mean square of an input; the pull falls
            with the square of the rows. 0 for none.
        calibration_batch: Calibration samples that run together.
        episode_samples: Calibration samples that the sequential repair of an episode reads; all if
            None. If it does not read all, it leaves out layers that read no pruned channels. The
            network that is kept in the end is repaired on all samples, in all layers.
        match_residual_sums: Whether the sequential repair aims at the original sums of residual
            blocks.
        norm_samples: Calibration samples on which the statistics of batch norms are estimated again
            after the plain repair, or where nothing is repaired; none if 0. The sequential repair
            corrects them by itself.
        seed: The seed of the positions, and of criteria that draw at random.
    """

    repair: Repair = "sequential"
    sampled_positions: int | None = 16
    ridge: float = DEFAULT_RIDGE
    rows_per_input: float = 2.0
    calibration_batch: int = 64
    episode_samples: int | None = 64
    match_residual_sums: bool = True
    norm_samples: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_name("repair", self.repair, get_args(Repair))
        for name in ("sampled_positions", "calibration_batch", "episode_samples"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}; give 1 or more")
        if not self.ridge >= 0:
            raise ValueError(f"ridge is {self.ridge}; give 0 or more")
        if not 0 <= self.rows_per_input < float("inf"):
            raise ValueError(f"rows_per_input is {self.rows_per_input}; give a number from 0")
        if self.norm_samples < 0 or (self.is_sequential and self.norm_samples):
            raise ValueError(
                f"norm_samples is {self.norm_samples} and repair is {self.repair!r}; give 0 or "
                "more, and 0 where repair is 'sequential'"
            )

    @property
    def is_sequential(self) -> bool:
        """Whether episodes repair layer by layer."""
        return self.repair == "sequential"

    @property
    def is_on(self) -> bool:
        """Whether any network is repaired."""
        return self.repair != "none"

    @property
    def sampling(self) -> RowSampling:
        """Which rows of a layer's inputs count."""
        return RowSampling(positions=self.sampled_positions, seed=self.seed)

    @property
    def by_layer(self) -> SequentialSettings:
        """How the network that is kept is repaired layer by layer."""
        return SequentialSettings(
            sampling=self.sampling,
            ridge=self.ridge,
            rows_per_input=self.rows_per_input,
            match_residual_sums=self.match_residual_sums,
        )
