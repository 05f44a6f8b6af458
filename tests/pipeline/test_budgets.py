"""Runs with several budgets, on the digits."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_model

from amc_env import Budget, ChannelGraph
from amc_env.data.datasets import digits
from amc_env.env.budget import BudgetKeeper
from amc_env.evaluation import Evaluator
from amc_env.models import build_model
from amc_env.pipeline import CONFIGS
from amc_env.pipeline.command import INTERRUPTED, read_jobs, run_jobs
from amc_env.pipeline.main import run_job
from amc_env.pipeline.table import read_runs, tabulate
from amc_env.policy import load_pruned
from amc_env.training import TrainingSettings, fit_

SHORT = ["search.episodes=3", "search.compare=[uniform]", "reward=accuracy", "finetune.epochs=0",
         "latency=false", "env.precision=float32", "adjust.epochs=0",
         "split.calibration=50", "split.validation=300"]  # fmt: skip
TWO = "budget.flops=[0.4,0.6]"

# An agent of a user's own, which a run stops as Ctrl-C would: in its search at one of the budgets.
STOPS = """
from amc_env.agents import Searcher

class Stops(Searcher):
    name = "stops"

    def __init__(self, after: int, how: str = "interrupt") -> None:
        self.after, self.how = after, how

    def run(self, recorder, *, episodes, seed):
        for number in range(episodes):
            if recorder.pruning.budget.flops == 0.4 and number == self.after:
                raise KeyboardInterrupt if self.how == "interrupt" else TypeError("a mistake")
            recorder.play([number / episodes] * len(recorder.pruning.graph.groups))
"""

Go = Callable[..., tuple[int, Path]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    model = build_model("digits_cnn", seed=0)
    fit_(model, digits().train, TrainingSettings(epochs=2, learning_rate=0.1, precision="float32"))
    save_model(model, str(path))
    return path


@pytest.fixture
def go(checkpoint: Path, tmp_path: Path) -> Go:
    """Runs a command line: its exit status, and the run's folder."""

    def gone(*overrides: str) -> tuple[int, Path]:
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        arguments = [*SHORT, f"model.checkpoint={checkpoint}", f"folder={folder}", *overrides]
        return run_jobs(read_jobs(arguments, CONFIGS), run_job), folder

    return gone


def stopping(tmp_path: Path, **options: object) -> list[str]:
    (tmp_path / "own.py").write_text(STOPS)
    given = [f"agent.options.{key}={value}" for key, value in options.items()]
    return [f"agent._target_={tmp_path / 'own.py'}:Stops", *given]


def metrics_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


@pytest.mark.slow
def test_every_budget_leaves_what_a_run_for_it_alone_leaves(go: Go) -> None:
    status, both = go("agent=random", TWO)
    assert status == 0
    for ratio in ("0.6", "0.4"):
        _, alone = go("agent=random", f"budget.flops={ratio}")
        part = both / f"budget.flops={ratio}"
        assert {p.name for p in part.iterdir()} == {p.name for p in alone.iterdir()}
        for name in ("policy.json", "compare/uniform/policy.json"):
            assert (part / name).read_bytes() == (alone / name).read_bytes(), name
        # Files of equal tensors differ in the order of their metadata.
        ours, theirs = (load_file(f / "pruned.safetensors") for f in (part, alone))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        figures, others = metrics_of(part), metrics_of(alone)
        assert figures.keys() == others.keys()
        for key in ("test_accuracies", "network_flops", "reward", "kept", "agent", "episodes"):
            assert figures[key] == others[key], key
        # Without the last line, the checksum of those above.
        settings = [(f / "config.yaml").read_text().splitlines()[:-1] for f in (part, alone)]
        assert [x for x in zip(*settings, strict=True) if x[0] != x[1]] == [
            (f"folder: {both}", f"folder: {alone}")
        ]
        exact = Evaluator(digits().test, precision="float32")
        loaded = load_pruned(build_model("digits_cnn"), part)
        assert exact.evaluate(loaded) == figures["repaired_accuracy"]


@pytest.mark.slow
def test_one_table_and_one_picture_show_all_budgets(
    go: Go, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = go("agent=random", TWO)
    whole = metrics_of(folder)
    assert whole["is_complete"] is True
    assert whole["seed"] == 0
    assert list(whole["budgets"]) == ["budget.flops=0.6", "budget.flops=0.4"]
    for name, metrics in whole["budgets"].items():
        assert metrics == metrics_of(folder / name)
    output = capsys.readouterr().out
    assert "2 budgets, in this order: budget.flops=0.6, budget.flops=0.4\n" in output
    shown = output[output.index("2 of 2 budgets") :]
    assert shown.count("original") == 1
    for network in ("random, repaired *", "uniform, repaired"):
        assert shown.count(network) == 2
    assert "pruned" not in shown.partition("a folder for each")[0]
    svg = (folder / "budgets.svg").read_text()
    # Each of the three lines has a marker in the legend.
    assert svg.count('id="random-repaired"') == svg.count('id="uniform-repaired"') == 1
    assert (folder / "budgets.png").stat().st_size > 0
    assert "All runs" in (folder / "report.html").read_text()
    rows = tabulate(read_runs(folder)).splitlines()
    assert [row[:10] for row in rows[2:4]] == ["| 0.4 | 0 ", "| 0.6 | 0 "]
    assert not (folder / "policy.json").exists()


@pytest.mark.slow
def test_a_search_begins_from_the_best_at_the_budget_before(go: Go) -> None:
    _, folder = go("agent=ddpg", TWO, "search.episodes=2", "search.compare=[]")
    best = max(episodes_of(folder / "budget.flops=0.6"), key=lambda row: float(row["reward"]))
    assert float(best["flops_ratio"]) > 0.4
    graph = ChannelGraph(build_model("digits_cnn").eval(), digits().train.inputs[:2])
    kept = {
        g.name: round((1 - float(best[f"sparsity/{g.name}"])) * g.channels) for g in graph.groups
    }
    expected = BudgetKeeper(graph, Budget(flops=0.4)).scaled(kept)
    first = episodes_of(folder / "budget.flops=0.4")[0]
    begun = {g.name: float(first[f"sparsity/{g.name}"]) for g in graph.groups}
    assert begun == {g.name: 1.0 - expected[g.name] / g.channels for g in graph.groups}


def episodes_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "episodes.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("after", "finished"), [(0, 1), (1, 2)])
def test_an_interruption_keeps_the_finished_budgets(
    after: int, finished: int, go: Go, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = "budget.flops=[0.4,0.6,0.3]"
    status, folder = go(*stopping(tmp_path, after=after), three)
    assert status == INTERRUPTED
    whole = metrics_of(folder)
    assert whole["is_complete"] is False
    assert list(whole["budgets"]) == ["budget.flops=0.6", "budget.flops=0.4"][:finished]
    assert [m["is_complete"] for m in whole["budgets"].values()] == [True, False][:finished]
    for name in whole["budgets"]:
        load_pruned(build_model("digits_cnn"), folder / name)
    assert not (folder / "budget.flops=0.3").exists()
    assert (folder / "budgets.svg").is_file()
    assert f"interrupted: this is what was found until then, of {finished} of 3" in (
        capsys.readouterr().out
    )
    assert len(read_runs(folder)) == finished


def test_an_interruption_before_anything_was_found_leaves_no_figures(
    go: Go, tmp_path: Path
) -> None:
    status, folder = go(*stopping(tmp_path, after=0), "budget.flops=[0.4,0.3]")
    assert status == INTERRUPTED
    assert not (folder / "metrics.json").exists()


def test_a_failure_keeps_the_finished_budgets(go: Go, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a mistake"):
        go(*stopping(tmp_path, after=0, how="fail"), TWO)
    (folder,) = tmp_path.glob("run*")
    assert list(metrics_of(folder)["budgets"]) == ["budget.flops=0.6"]
    assert metrics_of(folder)["is_complete"] is False
    load_pruned(build_model("digits_cnn"), folder / "budget.flops=0.6")


def test_a_budget_out_of_reach_is_refused_before_any_other_is_searched(
    go: Go, capsys: pytest.CaptureFixture[str]
) -> None:
    status, folder = go("budget.flops=[0.5,0.01]")
    assert status == 1
    assert "the budget for flops is 0.01, but with every group" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.slow
def test_a_better_rival_s_command_is_for_its_budget_alone(
    go: Go, capsys: pytest.CaptureFixture[str]
) -> None:
    go("agent=random", TWO, "search.episodes=1", "search.compare=[error_curves]", "reward=loss")
    said = [line for line in capsys.readouterr().out.splitlines() if "better policy" in line]
    assert said
    for line in said:
        ratio = line.partition("budget.flops=")[2][:3]
        assert "compare/error_curves; to make it this run's result: uv run" in line
        assert line.endswith(f"budget.flops={ratio} agent=error_curves")
        assert line.count("budget.flops") == 2


@pytest.mark.slow
def test_fine_tuning_is_done_for_every_budget(go: Go) -> None:
    _, folder = go("agent=random", TWO, "search.episodes=1", "finetune.epochs=1")
    for metrics in metrics_of(folder)["budgets"].values():
        assert {"repaired", "finetuned"} == {*metrics["held_out_accuracies"]}
