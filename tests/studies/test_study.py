"""The files of the studies, and the command line that asks for one, without running anything."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from amc_env.pipeline import CONFIGS
from amc_env.pipeline.crew import Crew
from amc_env.studies import STUDIES
from amc_env.studies.main import is_study
from amc_env.studies.plan import Order, read_plan
from amc_env.studies.runner import run_study
from amc_env.studies.study import STAGE, cells, key_of, read_study

NAMES = sorted(path.stem for path in STUDIES.glob("*.yaml"))
SCALES = ("smoke", "cpu", "gpu")
# Each combination takes a third of a second to compose.
FEW = ("entropy_correlation", "mi_configurations", "mi_distributions", "unstructured")
EVERY = [
    pytest.param(name, scale, marks=() if name in FEW and scale == "smoke" else pytest.mark.slow)
    for name in NAMES
    for scale in SCALES
]


def planned(*arguments: str, folder: Path) -> list[str]:
    """A study's runs, each as its folder's name."""
    return [run.folder.name for run in read_plan([*arguments, f"folder={folder}"]).runs]


@pytest.mark.parametrize(("name", "title"), EVERY)
def test_all_settings_of_a_study_exist_at_every_scale(
    name: str, title: Literal["smoke", "cpu", "gpu"], tmp_path: Path
) -> None:
    study = read_study(name)
    scale = study.scales[title]
    needs = [f"{need}=FILE" for need in scale.needs]
    plan = read_plan([f"study={name}", f"scale={title}", *needs, f"folder={tmp_path / 'study'}"])
    assert len(plan.runs) == len(cells(study, scale))
    assert len({run.folder for run in plan.runs}) == len(plan.runs)
    for run in plan.runs:
        assert run.settings.seed == run.cell.seed
        # No run compares with agents of its own: other rows do.
        assert run.settings.search.compare == []


@pytest.mark.parametrize("name", NAMES)
def test_every_study_has_every_scale(name: str) -> None:
    assert set(read_study(name).scales) == set(SCALES)


@pytest.mark.parametrize("name", NAMES)
def test_the_row_of_every_published_figure_is_run_or_named(name: str) -> None:
    study = read_study(name)
    scale = study.scales["gpu"]
    shown = {key_of(list(cell.values.values())) for cell in cells(study, scale)}
    if STAGE in study.axes_at(scale):
        shown = {key_of([key, stage]) for key in shown for stage in study.networks}
    extra = [key for key, row in study.published.rows.items() if key not in shown and not row.note]
    # Figure by figure: other methods' networks, at costs that no row here has.
    assert [key for key in extra if not key.startswith("hrank, ")] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_accuracies_has_the_largest_network_in_it(name: str) -> None:
    study = read_study(name)
    text = (STUDIES / f"{name}.yaml").read_text()
    assert "agent=most_parameters" in text or study.work != "prune"


@pytest.mark.parametrize("name", NAMES)
def test_every_study_has_a_section_with_its_claim_and_its_command(name: str) -> None:
    text = (CONFIGS.parents[1] / "docs" / "studies.md").read_text()
    section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert f"uv run train_agent.py study={name} scale=" in section
    assert "**Claim" in section or name in (
        "entropy_criterion",
        "mi_elsewhere",
        "spatial_or_univariate",
    )
    needs = read_study(name).scales["gpu" if "scale=gpu" in section else "cpu"].needs
    assert [need for need in needs if f"{need}=" not in section] == []


def test_values_that_come_later_take_the_options_of_others_along(tmp_path: Path) -> None:
    plan = read_plan(["study=mi_configurations", f"folder={tmp_path / 'a'}", "search.episodes=2"])
    one, largest = plan.runs[0].settings, plan.runs[-1].settings
    assert (one.agent.name, list(one.agent.options.counts)) == ("one_shot", [8, 16, 16, 32])
    assert (largest.agent.name, dict(largest.agent.options)) == ("most_parameters", {})
    assert {run.settings.search.episodes for run in plan.runs} == {2}


def test_combinations_that_are_left_out_are_not_run(tmp_path: Path) -> None:
    runs = planned("study=spatial_or_univariate", folder=tmp_path / "a")
    assert len(runs) == 6
    assert not [name for name in runs if "none_reward" in name or "spatial_most" in name]


def test_a_study_begun_goes_on_by_the_same_command_alone(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    own = ["study=unstructured", "budget.flops=0.4"]
    plan = read_plan([*own, f"folder={folder}"])
    plan.write()
    assert read_plan([*own, f"folder={folder}"]).runs == plan.runs
    assert is_study([f"resume={folder}"])
    assert read_plan([f"resume={folder}"]).order == plan.order
    assert plan.order == Order(study="unstructured", scale="smoke", settings=("budget.flops=0.4",))
    with pytest.raises(ValueError, match=r"was begun by uv run train_agent.py study=unstructured "):
        read_plan(["study=unstructured", f"folder={folder}"])
    with pytest.raises(ValueError, match="goes on with its own settings; leave seed=1 out"):
        read_plan([f"resume={folder}", "seed=1"])
    (folder / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"study.json is damaged"):
        read_plan([f"resume={folder}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["study=entropy_bin"],
            "study 'entropy_bin' does not exist; the nearest is 'entropy_bins'",
        ),
        (["study=entropy_bins", "scale=large"], "'large' does not exist"),
        (["study=entropy_bins", "-m"], "a study is many runs by itself; leave -m out"),
        (["study=entropy_bins", "seed=1"], "the seeds of a study stand in its file"),
        (["study=entropy_bins", "scale=cpu"], "needs files of yours; give data.options.path=FILE"),
        (["study=unstructured", "base.epoch=1"], "there is no setting 'base.epoch'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_run(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read_plan([*arguments, f"folder={tmp_path / 'study'}"])


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        read_plan(["study=entropy_bins", f"folder={tmp_path}"])


def test_who_chooses_other_data_needs_no_file(tmp_path: Path) -> None:
    own = ["study=entropy_correlation", "scale=cpu"]
    assert planned(*own, "data=cifar10", folder=tmp_path / "a")


def test_a_run_is_no_study() -> None:
    assert not is_study(["seed=1", "resume=null"])
    assert (CONFIGS / "study").is_dir()


def test_a_study_that_another_process_works_on_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    plan = read_plan(["study=unstructured", "scale=smoke", f"folder={folder}"])
    plan.write()
    holding = f"""
import sys
from pathlib import Path
from amc_env.pipeline.lock import lock
lock(Path({str(folder)!r}), place=Path())
print(flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", holding]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(ValueError, match=f"another process is at work in {folder};"):
            run_study(plan, lambda _: pytest.fail("a run was begun"), crew=Crew())
