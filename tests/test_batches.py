from pathlib import Path

import pytest
import torch
from several_inputs import TwoInputs, two_inputs

from amc_env import ChannelGraph, PruningData, RepairSettings, Split, repair
from amc_env.batches import by_name, count, in_parts, is_batch, joined, mapped, moved, taken
from amc_env.policy import Policy, PrunedFacts, load_pruned, make_policy, save_pruned
from amc_env.tasks import Regression

NESTED = {"image": torch.arange(12.0).view(6, 2), "rest": (torch.arange(6), torch.ones(6, 1))}


def test_parts_of_a_batch_make_it_up_again() -> None:
    parts = in_parts(NESTED, 4)
    assert [count(part) for part in parts] == [4, 2]
    whole = joined(parts)
    for name, tensor in by_name(NESTED, "x").items():
        assert torch.equal(by_name(whole, "x")[name], tensor)
    assert list(by_name(NESTED, "x")) == ["x.image", "x.rest.0", "x.rest.1"]
    assert taken(NESTED, torch.tensor([5, 0]))["rest"][0].tolist() == [5, 0]
    assert mapped(torch.neg, [torch.ones(2), torch.ones(2)])[1].tolist() == [-1.0, -1.0]
    assert moved(NESTED, "cpu") is NESTED


@pytest.mark.parametrize(
    "value", [None, "text", (), {}, [], (torch.ones(1), 3), {1: torch.ones(1)}]
)
def test_what_holds_something_else_than_tensors_is_no_batch(value: object) -> None:
    assert not is_batch(value)


def test_a_split_takes_several_inputs_and_no_labels() -> None:
    split = Split(inputs=two_inputs(6))
    assert (len(split), split.labels, split.shapes) == (6, None, ((1, 6, 6), (), (1,)))
    assert len(split.take(slice(2))) == 2
    assert len({*split.digests}) == 6
    other = Split(inputs=two_inputs(6, seed=1))
    other.inputs["image"][0] = split.inputs["image"][0]  # type: ignore[call-overload, index]
    # A sample is another one if any of its inputs is.
    PruningData(calibration=other, validation=other, test=split)
    with pytest.raises(ValueError, match="inputs are of 6 and 5 and 5 samples"):
        Split(inputs={**two_inputs(5), "image": torch.ones(6, 1, 6, 6)})
    with pytest.raises(ValueError, match="inputs are a str; give a tensor"):
        Split(inputs="images")


def test_loaders_may_yield_mappings_pairs_or_inputs_alone() -> None:
    images, labels = torch.randn(4, 1, 2, 2), torch.arange(4)
    named = [{"pixels": images, "labels": labels}] * 2
    assert Split.of(named).labels.tolist() == [0, 1, 2, 3] * 2  # type: ignore[union-attr]
    assert list(Split.of(named).inputs) == ["pixels"]
    assert Split.of(iter([images])).labels is None
    assert Split.of(images).labels is None
    assert len(Split.of([(images, labels), (images, labels)])) == 8
    assert len(Split.of([((images, images), labels)]).inputs) == 2
    with pytest.raises(ValueError, match="samples are neither a pair"):
        Split.of([images, (images, labels), images])


def test_named_and_nested_inputs_go_through_graph_policy_and_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TwoInputs().eval()
    graph = ChannelGraph(model, two_inputs(2))
    assert [group.name for group in graph.groups] == ["stem", "body"]
    kept = {"stem": torch.tensor([0, 2]), "body": torch.tensor([1, 2, 5])}
    policy = make_policy(graph, kept, criterion="l2", budget={}, seed=0)
    policy = Policy.model_validate_json(policy.model_dump_json())
    assert policy.arguments == {"image": 0, "where": [1, 2]}
    assert policy.input_types == ("float32", "int64", "float32")
    compact = graph.compact(kept)
    save_pruned(tmp_path, policy, compact, PrunedFacts(macs=1))
    loaded = load_pruned(TwoInputs(), tmp_path)
    given = two_inputs(3)
    with torch.no_grad():
        assert torch.equal(loaded(**given)["depth"], compact(**given)["depth"])


def test_a_network_of_several_inputs_is_repaired() -> None:
    torch.manual_seed(0)
    model = TwoInputs().eval()
    samples = two_inputs(80)
    small = ChannelGraph(model, two_inputs(2)).compact({"stem": [0, 2, 3, 5], "body": [0, 1, 2, 5]})
    settings = RepairSettings(calibration_batch=30)
    repaired = repair(small, model, samples, settings=settings)
    task, held_out = Regression(), two_inputs(40, seed=3)
    with torch.no_grad():
        wanted, before, after = (
            task.tensors(network(**held_out)) for network in (model, small, repaired)
        )
    assert task.distance(after, wanted) < 0.5 * task.distance(before, wanted)
