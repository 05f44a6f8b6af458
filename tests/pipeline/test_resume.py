"""Runs that are killed and go on, on the digits: the result is that of a run that was not."""

import csv
import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from killing import PROCESSES, Until, killed
from safetensors.torch import load_file

from amc_env import evaluation
from amc_env.agents import Episode
from amc_env.calibration import Calibration, calibrate
from amc_env.data.datasets import digits
from amc_env.pipeline import CONFIGS
from amc_env.pipeline.command import INTERRUPTED, read_jobs, run_jobs
from amc_env.pipeline.folder import RunFolder
from amc_env.pipeline.main import main, run_job
from amc_env.precision import Choice, Format
from amc_env.repair import pruner
from amc_env.training import training

QUICK = ["base.epochs=2", "search.episodes=10", "search.compare=[random]", "search.finalists=2",
         "agent.options.warmup_episodes=3", "adjust.epochs=2", "finetune.epochs=3",
         "env.precision=float32", "base.precision=float32", "finetune.precision=float32",
         "split.calibration=60", "split.validation=200", "split.selection=100"]  # fmt: skip

# No more than a search.
SHORT = ["search.compare=[]", "search.finalists=1", "adjust.epochs=0", "finetune.epochs=0",
         "latency=false"]  # fmt: skip


def go(*arguments: str) -> int:
    """Run a command line in this process."""
    return run_jobs(read_jobs(arguments, CONFIGS), run_job)


def journal_has(text: str, *, times: int = 1) -> Until:
    def has(folder: Path) -> bool:
        path = folder / "resume" / "journal"
        return path.exists() and path.read_text(errors="replace").count(text) >= times

    return has


def exists(name: str) -> Until:
    return lambda folder: (folder / "resume" / name).exists()


def result(folder: Path) -> tuple[Any, ...]:
    """All that a run is to find, compared exactly."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["is_complete"]
    names = [".", *(f"compare/{path.name}" for path in (folder / "compare").glob("*"))]
    weights = {
        f"{name}/{key}": value.tolist()
        for name in names
        for key, value in load_file(folder / name / "pruned.safetensors").items()
    }
    policies = [(folder / name / "policy.json").read_text() for name in names]
    episodes = [
        line.split(",")[:6] + line.split(",")[7:]
        for line in (folder / "episodes.csv").read_text().splitlines()
    ]
    figures = [metrics[key] for key in ("kept", "reward", "test_accuracies", "evaluations")]
    return weights, policies, episodes, figures


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert go(*QUICK, f"folder={folder}") == 0
    return folder


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param([journal_has("outcome", times=6), exists("finetune.pt")], id="twice"),
        pytest.param(
            [
                journal_has("outcome", times=3),
                journal_has("reward of the repaired", times=3),
                exists("adjust-ddpg.pt"),
                exists("finetune.pt"),
            ],
            id="four times",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_was_not(
    moments: list[Until], whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = [*QUICK, f"folder={folder}"]
    for until in moments:
        killed(until, folder, *arguments)
        arguments = [f"resume={folder}"]
    assert go(*arguments) == 0
    assert result(folder) == result(whole)
    assert not [path for path in folder.rglob("*") if path.name.endswith((".part", ".previous"))]


@pytest.mark.slow
def test_a_study_has_every_episode_once(tmp_path: Path) -> None:
    folder, storage = tmp_path / "run", f"sqlite:///{tmp_path / 'studies.db'}"
    arguments = [*QUICK, *SHORT, f"search.storage={storage}", f"folder={folder}"]
    killed(journal_has("outcome", times=6), folder, *arguments)
    assert go(f"resume={folder}") == 0
    trials = optuna.load_study(storage=storage, study_name=str(folder)).trials
    with (folder / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(str(trial.user_attrs["number"]), str(trial.value)) for trial in trials] == [
        (row["number"], row["reward"]) for row in rows
    ]


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(whole: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    folder, kills = tmp_path / "0", 0
    runs = 0
    while kills < 20:
        folder = tmp_path / str(runs)
        arguments = [*QUICK, f"folder={folder}"]
        seconds = 6.0
        while not (folder / "metrics.json").exists():
            process = PROCESSES.Process(target=main, args=(arguments,))
            process.start()
            # Before its settings are written there is nothing to go on with.
            while not (folder / "config.yaml").exists():
                time.sleep(0.01)
            process.join(draw.uniform(0.2, seconds))
            # On a busy machine a run may need more than this to come as far as it was.
            seconds *= 1.3
            process.kill()
            process.join()
            kills += process.exitcode == -9
            arguments = [f"resume={folder}"]
        assert result(folder) == result(whole)
        runs += 1


def interrupting(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Let Ctrl-C come as soon as so many episodes of the run's own agent are written."""
    add = RunFolder.add_episode

    def stops(self: RunFolder, episode: Episode, *others: Any) -> None:
        add(self, episode, *others)
        if episode.number == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "add_episode", stops)


def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run a command line that Ctrl-C interrupts in its search."""
    with monkeypatch.context() as patch:
        interrupting(patch, after=5)
        assert go(*QUICK, *arguments, f"folder={folder}") == INTERRUPTED


def test_after_ctrl_c_a_run_says_how_to_go_on_and_ends_as_if_there_was_none(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    interrupted(folder, monkeypatch)
    said = capsys.readouterr().out
    assert f"to go on from here: uv run train_agent.py resume={folder}\n" in said
    assert not json.loads((folder / "metrics.json").read_text())["is_complete"]
    assert go(f"resume={folder}") == 0
    assert result(folder) == result(whole)


def test_a_finished_run_is_not_changed(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert go(f"resume={whole}") == 0
    assert f"the run in {whole} is finished; nothing is changed" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("agent", "more"), [("ddpg", 9), pytest.param("spdy", 20, marks=pytest.mark.slow)]
)
def test_more_episodes_end_as_if_they_had_been_asked_for_at_once(
    agent: str, more: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [f"agent={agent}", *SHORT]
    own = [text for text in QUICK if not text.startswith("agent.")]
    assert go(*own, *few, "search.episodes=6", f"folder={tmp_path / 'one'}") == 0
    assert go(f"resume={tmp_path / 'one'}", f"search.episodes={more}") == 0
    # ddpg plays its last episode without exploring, spdy a tenth of them with random coefficients.
    assert "what was computed before still serves" in capsys.readouterr().out
    assert go(*own, *few, f"search.episodes={more}", f"folder={tmp_path / 'other'}") == 0
    assert result(tmp_path / "one") == result(tmp_path / "other")
    assert f"episodes: {more}" in (tmp_path / "one" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seed=4", "seed is 0 in .*config.yaml and 4 on the command line; a resumed run keeps"),
        ("agent=td3", "agent is 'ddpg' in .* and 'td3' on the command line"),
        ("threads=2", "threads is 1 in"),
        ("budget.flops=[0.5,0.3]", r"budget.flops is 0.5 in .* and \[0.5, 0.3\] on"),
        ("search.episodes=3", "search.episodes is 3, and the run in .* is one of 10; .* not fewer"),
        ("search.episodes=many", "search.episodes is 'many'"),
        ("sed=0", "there is no setting 'sed' in a resumed run; the nearest is 'seed'"),
        ("-m", "resume goes on with one run; give it without -m"),
    ],
)
def test_settings_that_would_change_the_result_are_refused(
    argument: str, message: str, whole: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read_jobs([f"resume={whole}", argument], CONFIGS)


def test_settings_that_the_run_has_may_be_repeated(whole: Path) -> None:
    arguments = [*QUICK, "agent=ddpg", "seed=0", f"resume={whole}"]
    (job,) = read_jobs(arguments, CONFIGS)
    assert job.is_resumed
    assert job.folder == whole


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"there is no run to resume in .*; give the folder"):
            read_jobs([f"resume={folder}"], CONFIGS)


def test_a_run_that_another_process_works_on_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [*QUICK, "search.episodes=100000", f"folder={folder}"]
    process = PROCESSES.Process(target=main, args=(arguments,))
    process.start()
    try:
        while not journal_has("outcome")(folder) and process.is_alive():
            time.sleep(0.01)
        with pytest.raises(ValueError, match=f"another process is at work in {folder};"):
            read_jobs([f"resume={folder}"], CONFIGS)
    finally:
        process.kill()
        process.join()
    assert read_jobs([f"resume={folder}"], CONFIGS)


def test_a_run_with_other_data_than_it_began_with_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = digits()
    np.savez(
        tmp_path / "data.npz",
        **{f"{part}_x": (16 * getattr(data, part).inputs.permute(0, 2, 3, 1)).byte().numpy()
           for part in ("train", "test")},
        **{f"{part}_y": getattr(data, part).labels.numpy() for part in ("train", "test")},
    )  # fmt: skip
    own = ["data=arrays", f"data.options.path={tmp_path / 'data.npz'}", *SHORT,
           "data.options.mean=[0]", "data.options.deviation=[1]"]  # fmt: skip
    interrupted(tmp_path / "run", monkeypatch, *own)
    arrays = dict(np.load(tmp_path / "data.npz"))
    np.savez(tmp_path / "data.npz", **{**arrays, "train_x": arrays["train_x"] // 2})
    assert go(f"resume={tmp_path / 'run'}") == 1
    assert "or the training data is not the one that the run in" in capsys.readouterr().err


def test_the_formats_that_a_clock_chose_are_those_of_the_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(precision: Literal["float32", "bfloat16"]) -> Callable[..., Choice]:
        return lambda *_, **__: Choice(format=Format(precision=precision), seconds={"a": 0.1})

    auto = [*SHORT, *(f"{part}.precision=auto" for part in ("env", "base", "finetune"))]
    for module in (evaluation, training):
        monkeypatch.setattr(module, "measure", measured("bfloat16"))
    interrupted(tmp_path / "run", monkeypatch, *auto)
    assert go(*QUICK, *auto, f"folder={tmp_path / 'whole'}") == 0
    for module in (evaluation, training):
        monkeypatch.setattr(module, "measure", measured("float32"))
    # What had not been measured before the interruption is measured now.
    assert go(f"resume={tmp_path / 'run'}") == 0
    one, other = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "whole")
    )
    assert one["evaluation_format"] == other["evaluation_format"]
    assert one["evaluation_format"]["format"]["precision"] == "bfloat16"
    own, others = (
        (tmp_path / name / "episodes.csv").read_text().splitlines() for name in ("run", "whole")
    )
    assert [line.split(",")[1] for line in own] == [line.split(",")[1] for line in others]


@pytest.mark.slow
def test_a_run_with_several_budgets_goes_on_at_the_one_it_was_killed_in(tmp_path: Path) -> None:
    own = [*QUICK, "budget.flops=[0.6,0.4]", "reward=auto", "trust=8"]
    assert go(*own, f"folder={tmp_path / 'whole'}") == 0
    folder = tmp_path / "run"
    arguments = [*own, f"folder={folder}"]
    for until in (
        lambda f: (f / "budget.flops=0.6" / "resume" / "finetune.pt").exists(),
        lambda f: (f / "budget.flops=0.4" / "policy.json").exists(),
        lambda f: (f / "budget.flops=0.4" / "resume" / "finetune.pt").exists(),
    ):
        killed(until, folder, *arguments)
        arguments = [f"resume={folder}"]
    assert go(*arguments) == 0
    for part in ("budget.flops=0.6", "budget.flops=0.4"):
        assert result(folder / part) == result(tmp_path / "whole" / part)


def test_a_resumed_run_calibrates_no_layer_again_and_a_finished_one_keeps_no_factors(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    interrupted(folder, monkeypatch)
    kept = [*(folder / "resume" / "preparation").rglob("*.safetensors")]
    assert len(kept) > 1
    asked: list[Sequence[str]] = []

    def calibrated(*given: Any, layers: Sequence[str], **settings: Any) -> Calibration:
        asked.append(layers)
        return calibrate(*given, layers=layers, **settings)

    monkeypatch.setattr(pruner, "calibrate", calibrated)
    assert go(f"resume={folder}") == 0
    assert asked == [()]
    assert result(folder) == result(whole)
    assert not (folder / "resume" / "preparation").exists()


def test_runs_share_scores_and_factors_in_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = [*QUICK, *SHORT, "search.episodes=1", f"preparation.folder={tmp_path / 'shared'}"]
    assert go(*shared, f"folder={tmp_path / 'a'}") == 0
    monkeypatch.setattr(pruner, "scores_by_group", None)
    budget = ["budget.flops=0.7", "reward=accuracy"]
    assert go(*shared, *budget, f"folder={tmp_path / 'b'}") == 0
    assert len([*(tmp_path / "shared").glob("*/index.json")]) == 1


def test_factors_that_are_too_large_are_told_of_and_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["search.episodes=1", "preparation.max_gib=1e-6", f"folder={tmp_path / 'run'}"]
    assert go(*QUICK, *SHORT, *small) == 0
    assert "so they will be computed again" in capsys.readouterr().out


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A file's content with some bits flipped, or cut off."""
    if draw.random() < 0.3:
        return content[: draw.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize(
    "cases", [range(1), pytest.param(range(1, 33), marks=pytest.mark.slow)], ids=["one", "many"]
)
def test_damaged_files_are_told_of_and_the_result_is_the_same(
    cases: range, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_at = tmp_path / "killed"
    killed(exists("finetune.pt.previous"), killed_at, *QUICK, f"folder={killed_at}")
    files = [p for p in sorted((killed_at / "resume").rglob("*")) if p.is_file()]
    files = [p for p in files if p.name != "lock"]
    files.append(killed_at / "config.yaml")
    for case in cases:
        draw = random.Random(case)
        folder = tmp_path / str(case)
        shutil.copytree(killed_at, folder)
        chosen = folder / files[case % len(files)].relative_to(killed_at)
        chosen.write_bytes(damaged(chosen.read_bytes(), draw))
        capsys.readouterr()
        assert go(f"resume={folder}") == 0, chosen
        said = capsys.readouterr()
        # A copy or a previous version is not read while the file itself is whole.
        is_read = chosen.parent == folder
        is_factor = chosen.parent.parent.name == "preparation"
        if is_factor or is_read or chosen.name == "journal" or chosen.suffix == ".pt":
            named = str(chosen.parent if is_factor else chosen)
            (sentence,) = [line for line in said.out.splitlines() if named in line]
            assert "damaged" in sentence or "cut off" in sentence
        assert said.err == ""
        assert result(folder) == result(whole)


def test_settings_of_which_both_files_are_damaged_are_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for path in (tmp_path / "run").rglob("config.yaml"):
        path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(ValueError, match=r"config.yaml and its copy are damaged, so the run"):
        read_jobs([f"resume={tmp_path / 'run'}"], CONFIGS)
