import csv
import json
import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_model
from torch import nn

import amc_env
from amc_env import ChannelPruningEnv, Policy, Split
from amc_env.agents.searchers import RandomSearch
from amc_env.data.datasets import Dataset, digits
from amc_env.evaluation import Evaluator, hardest_first
from amc_env.models import build_model, load_checkpoint_
from amc_env.pipeline import CONFIGS, report, stages
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.finetuning import finetune
from amc_env.pipeline.overrides import Settings
from amc_env.pipeline.run import Network, Run, choose
from amc_env.policy import ModelSource, load_pruned
from amc_env.rewards import RewardContext
from amc_env.training import TrainingSettings, fit_

SHORT = ["agent=random", "search.episodes=3", "search.compare=[]", "reward=accuracy",
         "latency=false",
         "finetune.epochs=0", "env.precision=float32", "finetune.precision=float32",
         "adjust.epochs=0",
         "split.calibration=50", "split.validation=300"]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    model = build_model("digits_cnn", seed=0)
    fit_(model, digits().train, TrainingSettings(epochs=2, learning_rate=0.1, precision="float32"))
    save_model(model, str(path))
    return path


Begin = Callable[..., tuple[Run, ChannelPruningEnv, Dataset]]


@pytest.fixture
def begin(checkpoint: Path, tmp_path: Path) -> Begin:
    """Starts a short run, up to its environment."""

    def begun(*overrides: str) -> tuple[Run, ChannelPruningEnv, Dataset]:
        config = composed(*SHORT, f"model.checkpoint={checkpoint}", *overrides)
        # A run refuses the folder of another.
        run = stages.start(config, tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        model, data = stages.base_model(run)
        few = torch.arange(400)
        data = Dataset(train=data.train.take(few), test=data.test.take(few))
        return run, stages.environment(run, model, data), data

    return begun


def composed(*overrides: str) -> RunConfig:
    return RunConfig.of(Settings(CONFIGS).compose(overrides))


def metrics_of(run: Run) -> dict[str, object]:
    content: dict[str, object] = json.loads((run.folder.path / "metrics.json").read_text())
    return content


def interrupted(model: nn.Module, _: object, *, only_training: bool) -> None:
    """A hook that does what Ctrl-C does."""
    if model.training or not only_training:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.ignore=[nowhere]", "ignore names no module 'nowhere'"),
        ("budget.flops=0.01", "the budget for flops is 0.01, but with every group at its"),
        (
            "split.calibration=900",
            "900 calibration, 5000 validation, 1000 selection and",
        ),
        ("trust=8 split.selection=0", "none of the 899 training images are for selection; give"),
        ("trust=200 env.round_to=8", "different policies were found .* but 200 are wanted"),
        ("model.name=resnet18", r"does not run on an example_input of shape \(2, 1, 8, 8\)"),
        ("model.name={file}:five", "the network gives scores of 5 classes, but there is a label 9"),
    ],
)
def test_what_cannot_be_pruned_is_refused_before_it_is_trained(
    override: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from amc_env.models import build_model\n"
        "def five():\n    return build_model('digits_cnn', num_classes=5, seed=0)\n"
    )
    # With this many epochs the test would not end if the training began.
    config = composed("base.epochs=1000000", *override.format(file=file).split())
    run = stages.start(config, tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        stages.base_model(run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_a_run_tells_what_the_original_is_worth(
    scale: float, begin: Begin, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_model("digits_cnn", seed=0)
    load_checkpoint_(model, checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    save_model(model, str(tmp_path / "scaled.safetensors"))
    _, env, _ = begin(f"model.checkpoint={tmp_path / 'scaled.safetensors'}")
    said = capsys.readouterr().out
    accuracy = env.evaluator.evaluate(model)
    assert f"the original network: {accuracy:.2%} of validation images right" in said
    # Without weights it takes every image for the same class.
    assert ("no better than one class for all" in said) == (scale == 0)
    assert (accuracy > 0.5) == (scale == 1)


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        # Far too high a learning rate, without warm-up, makes the network worse.
        (["finetune.learning_rate=10", "finetune.warmup=0", "finetune.clip=null"], "repaired"),
        # So little is left that the repair alone is poor.
        (["budget.flops=0.05", "env.min_keep=0.05", "finetune.learning_rate=0.05"], "finetuned"),
    ],
)
def test_the_better_of_repaired_and_finetuned_is_exported(
    overrides: list[str], kept: str, begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    run, env, data = begin("finetune.epochs=3", *overrides)
    networks = stages.repair(run, env, stages.search(run, env))
    repaired = {k: v.clone() for k, v in networks[-1].result.compact.state_dict().items()}
    networks = finetune(run, env, networks, data)
    report.finish(run, env, data, networks, [])
    assert [network.stage for network in networks] == ["pruned", "repaired", "finetuned"]
    after = networks[1].result.compact.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in repaired.items())
    metrics = metrics_of(run)
    held_out = metrics["held_out_accuracies"]
    assert isinstance(held_out, dict)
    assert metrics["kept"] == kept == max(held_out, key=lambda name: held_out[name])
    exact = Evaluator(data.test, precision="float32")
    loaded = exact.evaluate(amc_env.load(run.folder.path))
    policy = Policy.load(run.folder.path / "policy.json")
    assert loaded == metrics[f"{kept}_accuracy"] == policy.accuracy
    # The same channels with weights that were only cut.
    assert exact.evaluate(policy.apply(env.graph.model)) < loaded
    output = capsys.readouterr().out
    for line in report.next_steps(run):
        assert line in output
    assert f"the {kept} network is kept" in output
    assert f"random, {kept} *" in output
    assert "* exported" in output


def test_the_commands_at_the_end_name_the_folder_and_a_model_of_ones_own(begin: Begin) -> None:
    run, _, _ = begin()
    folder = str(run.folder.path)
    assert report.next_steps(run) == [
        f"look at it: open {folder}/report.html in a browser",
        f"export it: uv run python -m amc_env export {folder}",
        f"load it in Python: amc_env.load({folder!r})",
    ]
    run.source = ModelSource(name="my nets.py:small")
    _, export, load = report.next_steps(run)
    assert shlex.split(export)[-3:] == [folder, "--model", "my nets.py:small"]
    assert load.endswith(f"amc_env.load({folder!r}, 'my nets.py:small')")
    run.config = run.config.model_copy(update={"report": False})
    look = report.next_steps(run)[0]
    assert look == f"look at it: uv run python -m amc_env report {folder}"


def test_a_repaired_network_is_adjusted_unless_that_gains_nothing(
    begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    hard = ("budget.flops=0.1", "env.min_keep=0.05", "reward=kl_to_original", "adjust.epochs=10",
            "split.calibration=200", "split.validation=100")  # fmt: skip
    run, env, _ = begin(*hard)
    found = stages.search(run, env)
    adjusted = stages.repair(run, env, found)[-1].result
    plain = found[-1].result.realised(env, finalists=run.config.search.finalists)
    own, other = (env.judge(r.compact, r.best.counts).reward for r in (adjusted, plain))
    assert own > other
    assert "adjusting without labels: 10 epochs" in capsys.readouterr().out
    # A learning rate that ruins every network.
    run, env, _ = begin(*hard, "adjust.learning_rate=10", "adjust.warmup=0", "adjust.clip=null")
    kept = stages.repair(run, env, stages.search(run, env))[-1].result
    for name, value in kept.compact.state_dict().items():
        assert torch.equal(value, plain.compact.state_dict()[name])
    assert "the repaired one is kept" in capsys.readouterr().out


def test_an_interrupted_adjustment_leaves_the_repaired_network(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    run, env, _ = begin("adjust.epochs=1")
    found = stages.search(run, env)
    monkeypatch.setattr(stages, "train_", interrupted)
    networks = stages.repair(run, env, found)
    assert [network.stage for network in networks] == ["pruned", "repaired"]
    assert not run.is_complete


def test_of_equally_good_networks_the_finetuned_one_is_kept(begin: Begin) -> None:
    run, env, _ = begin()
    (pruned,) = stages.search(run, env)
    made = partial(Network, agent="a", result=pruned.result)
    networks = [
        pruned,
        made(stage="repaired", held_out_accuracy=0.5),
        made(stage="finetuned", held_out_accuracy=0.5),
    ]
    assert choose(networks).stage == "finetuned"
    assert choose(networks[:2]).stage == "repaired"
    assert choose(networks[:1]).stage == "pruned"


def test_a_run_says_how_long_training_takes_and_how_networks_are_evaluated(
    begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    run, env, data = begin("finetune.epochs=2", "env.precision=auto", "finetune.precision=auto")
    networks = finetune(run, env, stages.repair(run, env, stages.search(run, env)), data)
    report.finish(run, env, data, networks, [])
    said = capsys.readouterr().out
    # 400 images, 100 of which are held out, in batches that are made smaller for 16 steps
    assert re.search(r"fine-tuning: 2 epochs of 16 steps in \w+, about \d+ seconds", said)
    assert re.search(r"evaluated in \w+ with channels \w+, measured on \d+ samples", said)
    form = metrics_of(run)["evaluation_format"]
    assert isinstance(form, dict)
    assert set(form["format"]) == {"precision", "channels_last"}
    assert {"float32 with channels last", "bfloat16 with channels last"} <= set(form["seconds"])


def test_the_original_network_is_the_teacher_unless_labels_alone_are_asked_for(
    begin: Begin,
) -> None:
    run, env, data = begin("finetune.epochs=1")
    networks = stages.repair(run, env, stages.search(run, env))
    runs: list[bool] = []
    hook = env.graph.model.register_forward_hook(lambda m, *_: runs.append(m.training))
    finetune(run, env, networks, data)
    assert runs
    assert not any(runs)
    runs.clear()
    alone, _, _ = begin("finetune.epochs=1", "finetune.distil=0")
    finetune(alone, env, networks, data)
    hook.remove()
    assert not runs


@pytest.mark.parametrize("epochs", [0, 2])
def test_nothing_is_called_finetuned_that_was_not(epochs: int, begin: Begin) -> None:
    run, env, data = begin(f"finetune.epochs={epochs}")
    networks = stages.repair(run, env, stages.search(run, env))
    # Where there are epochs, Ctrl-C comes in the first of them.
    hook = networks[-1].result.compact.register_forward_pre_hook(
        partial(interrupted, only_training=True)
    )
    networks = finetune(run, env, networks, data)
    hook.remove()
    report.finish(run, env, data, networks, [])
    metrics = metrics_of(run)
    assert metrics["kept"] == "repaired"
    assert metrics["is_complete"] is (epochs == 0)
    assert "finetuned" not in json.dumps(metrics)
    assert "held_out_accuracies" not in metrics


def test_an_interrupted_repair_leaves_the_pruned_network(begin: Begin) -> None:
    run, env, data = begin("finetune.epochs=1")
    networks = stages.search(run, env)
    # The compact copy that is repaired takes the hook with it.
    hook = env.graph.model.register_forward_pre_hook(partial(interrupted, only_training=False))
    networks = stages.repair(run, env, networks)
    hook.remove()
    networks = finetune(run, env, networks, data)
    report.finish(run, env, data, networks, [])
    metrics = metrics_of(run)
    assert metrics["is_complete"] is False
    assert metrics["kept"] == "pruned"
    assert "repaired_accuracy" not in metrics
    loaded = load_pruned(build_model("digits_cnn"), run.folder.path)
    exact = Evaluator(data.test, precision="float32").evaluate(loaded)
    assert exact == metrics["pruned_accuracy"]


def test_an_interrupted_comparison_keeps_what_was_found(begin: Begin) -> None:
    run, env, data = begin("search.compare=[uniform,error_curves]")
    networks = stages.search(run, env)
    hook = env.graph.model.register_forward_pre_hook(partial(interrupted, only_training=False))
    rivals = stages.compare(run, env)
    hook.remove()
    assert not run.is_complete
    report.finish(run, env, data, stages.repair(run, env, networks), rivals)
    assert metrics_of(run)["is_complete"] is False
    assert metrics_of(run)["kept"] == "repaired"


class FailsAt:
    """A reward that is the accuracy, until it fails in one episode."""

    name = "fails_at"

    def __init__(self, *, episode: int, how: str) -> None:
        self.episode, self.how, self.calls = episode, how, 0

    def __call__(self, context: RewardContext) -> float:
        self.calls += 1
        if self.calls < self.episode:
            return context.accuracy
        if self.how == "nan":
            return float("nan")
        if self.how == "memory":
            torch.empty(2**55)
        raise TypeError("a mistake")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "the reward is nan; .*; the 3 finished episodes are in .*csv, the"),
        ("memory", "make env.evaluation_batch or split.validation smaller; the 3 finished"),
        ("type", "a mistake"),
    ],
)
def test_an_episode_that_fails_leaves_the_episodes_before_it(
    how: str, message: str, begin: Begin
) -> None:
    run, env, _ = begin("search.episodes=9")
    failing = ChannelPruningEnv(
        model=env.graph.model,
        data=env.data,
        reward=FailsAt(episode=4, how=how),
        budget=env.budget,
        settings=env.settings,
    )
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        stages.search(run, failing)
    notes = getattr(raised.value, "__notes__", [])
    assert "the 3 finished episodes are in" in " ".join([str(raised.value), *notes])
    with (run.folder.path / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == ["1", "2", "3"]
    best = max(rows, key=lambda row: float(row["reward"]))
    policy = Policy.load(run.folder.path / "policy.json")
    assert policy.reached["flops"] == pytest.approx(float(best["flops_ratio"]))
    for group in policy.groups:
        assert group.sparsity == pytest.approx(float(best[f"sparsity/{group.name}"]))


def test_memory_that_runs_out_in_training_names_the_batch(begin: Begin) -> None:
    run, env, data = begin("finetune.epochs=1")
    networks = stages.repair(run, env, stages.search(run, env))

    def greedy(model: nn.Module, _: object) -> None:
        if model.training:
            torch.empty(2**55)

    networks[-1].result.compact.register_forward_pre_hook(greedy)
    with pytest.raises(ValueError, match=r"while fine-tuning; make finetune.batch smaller; the 3"):
        finetune(run, env, networks, data)


def test_a_better_rival_is_named_with_its_files_and_its_command(
    begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    run, env, _ = begin("search.episodes=1", "search.compare=[error_curves]", "reward=loss")
    networks = stages.search(run, env)
    rivals = stages.compare(run, env)
    networks = stages.repair(run, env, networks)
    capsys.readouterr()
    report.warn_of_rivals(run, env, networks, rivals)
    said = capsys.readouterr().out
    folder = run.folder.path / "compare" / "error_curves"
    assert said.startswith("error_curves found a better policy than random: reward -")
    assert str(folder) in said
    assert said.rstrip().endswith("uv run train_agent.py agent=error_curves")
    policy = Policy.load(folder / "policy.json")
    assert policy.groups == rivals[-1].result.policy.groups
    assert policy.measured_on == "the validation split"
    load_pruned(build_model("digits_cnn"), folder)
    # The other way round there is nothing to say.
    report.warn_of_rivals(run, env, rivals, networks)
    assert capsys.readouterr().out == ""


def test_a_race_sees_the_hardest_samples_first_and_finds_the_same_policy(begin: Begin) -> None:
    found = {}
    for race in (False, True):
        run, env, _ = begin("search.episodes=12", f"agent.options.race={race}", "reward=loss")
        found[race] = stages.search(run, env)[-1].result, env
    (plain, env), (raced, sorted_env) = found[False], found[True]
    order = torch.tensor(hardest_first(env.data.validation, env.graph.model))
    assert not torch.equal(order, torch.arange(len(order)))
    first, second = env.data.validation.take(order), sorted_env.data.validation
    assert all(
        torch.equal(first.identity()[name], second.identity()[name])
        for name in ("inputs", "labels")
    )
    assert raced.best.counts == plain.best.counts
    assert raced.best.reward == pytest.approx(plain.best.reward, rel=1e-5)
    in_drawn_order = RandomSearch(race=True).search(env, episodes=12, seed=run.config.seed)
    assert raced.evaluations < in_drawn_order.evaluations


@pytest.mark.parametrize("others", [["agent=evopress"], ["search.compare=[evopress]"]])
def test_beside_a_searcher_that_samples_the_validation_samples_stay_as_they_are_drawn(
    begin: Begin, others: list[str]
) -> None:
    raced = [*others, "agent.options.race=true"]
    drawn, found = (begin(*given)[1].data.validation for given in ([], raced))
    assert torch.equal(found.identity()["inputs"], drawn.identity()["inputs"])


@pytest.mark.slow
def test_no_choice_reads_the_test_data(begin: Begin) -> None:
    found = []
    for change in (False, True):
        run, env, data = begin("finetune.epochs=1")
        if change:
            noise = Split(inputs=-data.test.inputs, labels=data.test.labels.flip(0))
            data = Dataset(train=data.train, test=noise)
        networks = stages.repair(run, env, stages.search(run, env))
        networks = finetune(run, env, networks, data)
        report.finish(run, env, data, networks, [])
        metrics = metrics_of(run)
        weights = load_file(run.folder.path / "pruned.safetensors")
        # The policy also says how accurate it is on the test data; that is no choice.
        policy = Policy.load(run.folder.path / "policy.json").model_copy(update={"accuracy": None})
        found.append((metrics["kept"], policy, weights))
    assert found[0][:2] == found[1][:2]
    assert all(torch.equal(found[0][2][name], found[1][2][name]) for name in found[0][2])
