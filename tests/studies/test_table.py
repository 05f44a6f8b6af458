"""The table of a study, from the files that its runs leave."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from amc_env.pipeline.command import INTERRUPTED, Job
from amc_env.pipeline.crew import Crew
from amc_env.studies import page
from amc_env.studies.plan import Order, Plan, PlannedRun, read_plan
from amc_env.studies.rows import tabulated
from amc_env.studies.runner import run_study
from amc_env.studies.study import Picture, Scale, Study, cells
from amc_env.studies.works import WORKS

STUDY = Study.model_validate(
    {
        "name": "ours",
        "document": "Somebody, 2023, table 1",
        "claim": "It is better.",
        "axes": {"reward": {"accuracy": [], "entropy": []}},
        "reference": {"reward": "accuracy"},
        "columns": ["validation"],
        "differences": ["The data is smaller."],
        "published": {
            "setting": {"data": "CIFAR-10"},
            "original": {"accuracy": 93.5, "params": 1000},
            "rows": {"entropy": {"accuracy": 92.1, "params": 400}, "other": {"accuracy": 91}},
        },
        "scales": {"smoke": {"seeds": [0, 1]}},
    }
)
# Of ten test images, how many of the first are right, for the rows and seeds.
RIGHT = {"accuracy": (6, 8), "entropy": (4, 5)}


def finish(
    run: PlannedRun, *, right: int | None = None, is_marked: bool = False, **others: Any
) -> None:
    """Leave what a finished run leaves."""
    run.folder.mkdir(parents=True)
    if right is None:
        right = RIGHT[run.cell.values["reward"]][run.cell.seed]
    names, accuracies = ["original", "ddpg, finetuned"], [0.9, right / 10]
    metrics = {
        "agent": "ddpg", "model": "net", "data": "digits", "seed": run.cell.seed,
        "is_complete": True,
        "test_accuracies": dict(zip(names, accuracies, strict=True)),
        "network_flops": dict(zip(names, (4_000_000, 2_000_000), strict=True)),
        "network_params": dict(zip(names, (1000, 400), strict=True)),
        "validation_accuracy": 0.75, "seconds": 4.0, **others,
    }  # fmt: skip
    if is_marked:
        metrics["test_accuracies_on_originals"] = dict.fromkeys(names, 0.5)
    (run.folder / "metrics.json").write_text(json.dumps(metrics))
    (run.folder / "config.yaml").write_text(OmegaConf.to_yaml(run.settings))
    with (run.folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", *names])
        writer.writerows([image, image if image < 9 else 0, image if image < right else 11]
                         for image in range(10))  # fmt: skip


def plan_in(folder: Path, study: Study = STUDY) -> Plan:
    scale: Scale = study.scales["smoke"]
    settings = OmegaConf.create(
        {"search": {"episodes": 3}, "data": {"name": "digits"}, "model": {"checkpoint": "a.th"}}
    )
    runs = tuple(
        PlannedRun(cell=c, folder=folder / "runs" / str(n), overrides=(), settings=settings)
        for n, c in enumerate(cells(study, scale))
    )
    order = Order(study=study.name, scale="smoke")
    return Plan(order=order, study=study, scale=scale, folder=folder, runs=runs)


def test_rows_have_medians_over_seeds_paired_differences_and_published_figures(
    tmp_path: Path,
) -> None:
    plan = plan_in(tmp_path)
    for run in plan.runs:
        finish(run)
    header, (original, accuracy, entropy) = tabulated(plan)
    assert header == [
        "reward", "seeds", "MACs", "parameters", "accuracy: median (range)",
        "difference to accuracy in points (95 %)", "accuracy in the search (validation split)",
        "published", "published parameters", "seconds",
    ]  # fmt: skip
    assert original == [
        "original", "1", "4.00 M (1.000)", "1,000 (1.000)", "90.00%", "-", "-", "93.50%", "1,000",
        "-",
    ]  # fmt: skip
    assert accuracy == [
        "accuracy", "2", "2.00 M (0.500)", "400 (0.400)", "70.00% (60.00% to 80.00%)",
        "reference", "75.00%", "-", "-", "4",
    ]  # fmt: skip
    assert entropy[:5] == ["entropy", "2", "2.00 M (0.500)", "400 (0.400)",
                           "45.00% (40.00% to 50.00%)"]  # fmt: skip
    # Two and three of ten images fewer, of the same images.
    assert entropy[5].startswith("-25.00 (-5")
    assert entropy[7:] == ["92.10%", "400", "4"]


def test_accuracies_on_original_images_have_a_column_where_the_data_marks_them(
    tmp_path: Path,
) -> None:
    plan = plan_in(tmp_path)
    for run in plan.runs:
        finish(run, is_marked=True)
    header, rows = tabulated(plan)
    column = header.index("accuracy on original images")
    assert [row[column] for row in rows] == ["50.00%", *["50.00% (50.00% to 50.00%)"] * 2]


def test_the_originals_of_a_network_on_other_data_are_told_apart(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    for run, data in zip(plan.runs, ("mnist", "mnist", "digits", "digits"), strict=True):
        finish(run, data=data)
    _, rows = tabulated(plan)
    assert [row[0] for row in rows] == ["original mnist", "original digits", "accuracy", "entropy"]


def test_the_page_says_what_was_claimed_what_differs_and_what_is_missing(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    for run in plan.runs[:2]:
        finish(run)
    plan.runs[2].folder.mkdir()
    (plan.runs[2].folder / "error.json").write_text(json.dumps({"error": "no memory"}))
    (tmp_path / "bases" / "net-1").mkdir(parents=True)
    (tmp_path / "bases" / "net-1" / "error.json").write_text(json.dumps({"error": "no file"}))
    page.write(plan)
    text = (tmp_path / "table.md").read_text()
    for part in (
        "**Source.** Somebody, 2023, table 1",
        "**Claim.** It is better.",
        "| data | digits | CIFAR-10 |",
        "| epochs of the network's training | a checkpoint | - |",
        "| seeds | 2 | - |",
        "- The data is smaller.",
        "| accuracy | 2 | 2.00 M (0.500) |",
        "- other: 91.0 %",
        "- **failed**: 2: no memory",
        "- **failed**: net-1: no file",
    ):
        assert part in text
    assert "| entropy |" not in text
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [row["reward"] for row in csv.DictReader(file)] == ["original", "accuracy"]


def test_a_study_without_a_finished_run_has_a_page_too(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    page.write(plan)
    assert "**Claim.**" in (tmp_path / "table.md").read_text()


def test_a_reference_that_no_row_has_is_refused() -> None:
    wrong = STUDY.model_dump() | {"reference": {"reward": "loss"}}
    with pytest.raises(ValueError, match="value of axis reward 'loss' does not exist"):
        Study.model_validate(wrong)


def test_an_interrupted_study_leaves_the_table_of_what_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = read_plan(["study=capacity_sigma", "model.checkpoint=a.th", f"folder={tmp_path}"])
    waiting = list(plan.runs)

    def prune(_: Job) -> int:
        if len(waiting) == 2:
            raise KeyboardInterrupt
        finish(waiting.pop(0), right=5)
        return 0

    assert run_study(plan, prune, crew=Crew()) == INTERRUPTED
    text, total = (tmp_path / "table.md").read_text(), len(plan.runs)
    assert f"**{total - 2} of {total} runs are finished.**" in text
    assert f"the table of the runs that are finished is {tmp_path / 'table.md'}" in (
        capsys.readouterr().out
    )
    for run in waiting:
        finish(run, right=5)
    page.write(plan)
    assert "runs are finished" not in (tmp_path / "table.md").read_text()


def test_networks_that_were_not_fine_tuned_stand_beside_those_that_were(tmp_path: Path) -> None:
    needs = ["data.options.path=images.npz", f"folder={tmp_path / 'study'}"]
    plan = read_plan(["study=reward_validity", "scale=cpu", *needs])
    tuned, other = plan.runs
    found = {"middle": 0.5, "low": 0.25, "high": 0.75}
    figures = {"realised accuracy": found, "minus realised loss": found}
    finish(other, right=0, correlations={"accuracy": figures, "random": dict.fromkeys(figures)})
    finish(tuned, right=0, correlations={"accuracy": {**figures, "fine-tuned accuracy": found}})
    header, lines = WORKS["validity"].table(plan)
    assert header[3:] == ["realised accuracy", "minus realised loss", "fine-tuned accuracy"]
    shown = "+0.50 (+0.25 to +0.75)"
    assert lines == [
        ["ResNet-20", "0", "accuracy", shown, shown, shown],
        ["ResNet-32", "0", "accuracy", shown, shown, "-"],
        ["ResNet-32", "0", "random", "-", "-", "-"],
    ]


def test_rows_without_a_number_stand_below_each_other_in_the_picture(tmp_path: Path) -> None:
    axes = {"data": {"digits": (), "letters": ()}, "reward": {"accuracy": (), "entropy": ()}}
    picture = Picture(lines=("data", "reward"))
    plan = plan_in(tmp_path, STUDY.model_copy(update={"axes": axes, "picture": picture}))
    for run in plan.runs:
        finish(run)
    page.write(plan)
    assert "![accuracies](accuracies.svg)" in (tmp_path / "table.md").read_text()
    drawn = (tmp_path / "accuracies.svg").read_text()
    names = ("digits", "letters", "accuracy", "entropy")
    assert {name: drawn.count(f">{name}</text>") for name in names} == dict.fromkeys(names, 1)
