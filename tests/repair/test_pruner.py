from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pruning import samples, tiny
from torch import Tensor, nn
from typing_extensions import override

from amc_env import ChannelGraph, RepairSettings
from amc_env.calibration.rows import RowSampling
from amc_env.criteria import make_criterion
from amc_env.repair.plan import repaired_layers, unrepaired_layers
from amc_env.repair.pruner import Pruner
from amc_env.repair.sequential import SequentialSettings, repair_sequentially_

COUNTS = {"stem": 5, "wide": 7}


def pruner(**settings: Any) -> Pruner:
    split = samples(24)
    return Pruner(
        ChannelGraph(tiny(), split.inputs[:2]),
        split,
        make_criterion("l2"),
        repair=RepairSettings(**settings),
    )


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean((0, 2, 3)), x.var((0, 2, 3))


def test_norms_are_estimated_again_on_the_first_calibration_samples() -> None:
    plain, settled = (pruner(repair="plain", norm_samples=n).prune(COUNTS).model for n in (0, 10))
    with torch.no_grad():
        mean, variance = statistics(settled.stem(samples(24).inputs[:10]))
    # Machines with units for it do this in bfloat16.
    assert torch.allclose(settled.norm.running_mean, mean, atol=2e-2)
    assert torch.allclose(settled.norm.running_var, variance, rtol=3e-2)
    assert not torch.allclose(plain.norm.running_mean, mean, atol=2e-2)


def test_the_sequential_repair_does_without_them() -> None:
    plain, settled = (
        pruner(repair="plain", norm_samples=n).prune_sequentially(COUNTS).state_dict()
        for n in (0, 10)
    )
    assert all(torch.equal(plain[name], settled[name]) for name in plain)


def test_an_episode_reads_its_own_share_of_the_samples() -> None:
    few, every = pruner(episode_samples=8), pruner(episode_samples=None)
    repaired = [made.prune(COUNTS).model.last.weight for made in (few, every)]
    assert not torch.equal(*repaired)
    for made in (few, every):
        assert torch.equal(made.prune_sequentially(COUNTS).last.weight, repaired[1])
    compact = few.graph.compact(few.plan.kept(COUNTS))
    few.plan.apply_(compact, COUNTS)
    settings = SequentialSettings(
        sampling=RowSampling(positions=16),
        rows_per_input=few.repair.rows_per_input,
        only_readers=True,
        match_residual_sums=True,
    )
    first = [samples(24).inputs[:8]]
    repair_sequentially_(compact, few.graph, few.plan.kept(COUNTS), first, settings=settings)
    assert torch.equal(compact.last.weight, repaired[0])


def test_indices_are_kept_as_well_as_numbers() -> None:
    made = pruner()
    kept = made.prune(COUNTS).kept
    by_number, by_index = made.prune(COUNTS).model, made.prune(kept).model
    state = by_index.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in by_number.state_dict().items())
    other = made.prune({"stem": [7, 0, 3]})
    assert other.kept["stem"].tolist() == [0, 3, 7]
    assert other.model.stem.out_channels == 3


class Counting(nn.Sequential):
    """A network without batch norms that counts its runs."""

    runs = 0

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        out: Tensor = super().forward(x)
        return out


def test_norms_that_a_network_does_not_have_are_refused_before_it_runs() -> None:
    model, split = Counting().eval(), samples(24)
    graph, runs = ChannelGraph(model, split.inputs[:2]), model.runs
    settings = RepairSettings(norm_samples=5, repair="plain")
    with pytest.raises(ValueError, match=r"norm_samples is 5, but the network has no batch norm"):
        Pruner(graph, split, make_criterion("l2"), repair=settings)
    assert model.runs == runs


def test_without_a_repair_the_weights_that_stay_are_those_of_the_original_bit_for_bit() -> None:
    made, original = pruner(repair="none"), tiny()
    for model, kept in (
        (made.prune(COUNTS).model, made.prune(COUNTS).kept),
        (made.realise(COUNTS), made.kept(COUNTS)),
    ):
        stem, wide = kept["stem"], kept["wide"]
        expected = {
            "stem.weight": original.stem.weight[stem],
            "stem.bias": original.stem.bias[stem],
            **{f"norm.{name}": value[stem] for name, value in original.norm.state_dict().items()
               if value.dim()},
            "depthwise.weight": original.depthwise.weight[stem],
            "depthwise.bias": original.depthwise.bias[stem],
            "wide.weight": original.wide.weight[wide][:, stem],
            "wide.bias": original.wide.bias[wide],
            "last.weight": original.last.weight[:, wide],
            "last.bias": original.last.bias,
            "head.weight": original.head.weight,
            "head.bias": original.head.bias,
        }  # fmt: skip
        state = model.state_dict()
        assert {*state} == {*expected, "norm.num_batches_tracked"}
        assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_without_a_repair_nothing_is_calibrated_or_factored_until_somebody_asks() -> None:
    model, split = Counting().eval(), samples(24)
    graph, runs = ChannelGraph(model, split.inputs[:2]), model.runs
    bare = Pruner(graph, split, make_criterion("l2"), repair=RepairSettings(repair="none"))
    bare.prune({"0": 2})
    assert model.runs == runs
    plain = Pruner(graph, split, make_criterion("l2"), repair=RepairSettings(repair="plain"))
    assert model.runs > runs
    assert (bare.squared_errors("0") == plain.squared_errors("0")).all()


def test_without_a_repair_a_criterion_gets_the_sums_that_it_needs() -> None:
    split = samples(24)
    found = [
        Pruner(
            ChannelGraph(tiny(), split.inputs[:2]),
            split,
            make_criterion("reconstruction"),
            repair=RepairSettings(repair=repair),
        )
        for repair in ("none", "plain")
    ]
    for name, scores in found[0].scores.items():
        assert torch.equal(scores, found[1].scores[name])
    assert not found[0].calibration.grams


def test_without_a_repair_norms_may_be_estimated_again_in_the_network_that_is_kept() -> None:
    compact = pruner(repair="none", norm_samples=10).realise(COUNTS)
    with torch.no_grad():
        mean, variance = statistics(compact.stem(samples(24).inputs[:10]))
    torch.testing.assert_close(compact.norm.running_mean, mean)
    torch.testing.assert_close(compact.norm.running_var, variance, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("repair", ["plain", "sequential"])
def test_what_is_kept_in_the_end_is_repaired_layer_by_layer(repair: str) -> None:
    made = pruner(repair=repair)
    one, other = (network.state_dict() for network in (
        made.realise(COUNTS), made.prune_sequentially(COUNTS)))  # fmt: skip
    assert all(torch.equal(value, other[name]) for name, value in one.items())


class Bare(nn.Module):
    """A kernel that is no layer's weight but a parameter of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.kernel = nn.Conv2d(1, 8, 3), nn.Parameter(torch.randn(6, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.stem(x).relu(), self.kernel).mean((2, 3))


def test_bare_parameters_are_listed_as_unrepaired_and_keep_their_weights() -> None:
    split = samples(24)
    network = Bare().eval()
    graph = ChannelGraph(network, split.inputs[:2])
    assert repaired_layers(graph) == ()
    assert unrepaired_layers(graph) == ("kernel",)
    pruner = Pruner(graph, split, make_criterion("l2"))
    kept = pruner.plan.kept({"stem": 5})
    for model in (pruner.prune(kept).model, pruner.prune_sequentially(kept)):
        assert torch.equal(model.kernel, network.kernel[:, kept["stem"]])


def test_a_repair_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="repair 'some' does not exist; the nearest is"):
        RepairSettings(repair="some")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{"norm_samples": -1}, {"norm_samples": 5, "repair": "sequential"}]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give 0 or more, and 0 where repair is 'sequential'"):
        RepairSettings(**settings)
