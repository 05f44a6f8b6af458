import json
from pathlib import Path

import pytest

from amc_env.pipeline import CONFIGS
from amc_env.pipeline.command import INTERRUPTED, Job, read_jobs, run_jobs


def test_a_run_has_a_folder_of_its_own_and_leaves_none_when_it_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (job,) = read_jobs([f"folder={folder}", "seed=2"], CONFIGS)
    assert (job.folder, job.settings.seed, job.is_swept) == (folder, 2, False)

    def refused(job: Job) -> int:
        raise ValueError(f"{job.settings.seed} cannot be")

    assert run_jobs([job], refused) == 1
    assert not folder.exists()
    (default,) = read_jobs([], CONFIGS)
    assert default.folder.parent == Path("runs")


def test_a_folder_in_use_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    for option in ([], ["-m"]):
        with pytest.raises(ValueError, match="is not empty"):
            read_jobs([*option, f"folder={tmp_path}"], CONFIGS)


def test_jobs_of_a_sweep_are_called_by_what_differs(tmp_path: Path) -> None:
    arguments = ["-m", f"folder={tmp_path}", "seed=0,1", "budget.flops=0.3", "reward=loss,accuracy"]
    jobs = read_jobs(arguments, CONFIGS)
    assert [job.folder.name for job in jobs] == [
        "0_seed=0,reward=loss",
        "1_seed=0,reward=accuracy",
        "2_seed=1,reward=loss",
        "3_seed=1,reward=accuracy",
    ]
    paths = ["-m", f"folder={tmp_path}", "model.checkpoint=/a/b.th,/c/d.th"]
    assert all(job.folder.parent == tmp_path for job in read_jobs(paths, CONFIGS))


@pytest.mark.parametrize("error", [ValueError("seed 1"), OSError("seed 1"), RuntimeError("seed 1")])
def test_a_failed_job_leaves_word_and_the_others_are_run(error: Exception, tmp_path: Path) -> None:
    jobs = read_jobs(["-m", f"folder={tmp_path}", "seed=0,1,2"], CONFIGS)
    done = []

    def run(job: Job) -> int:
        if job.settings.seed == 1:
            raise error
        done.append(job.settings.seed)
        return 0

    assert run_jobs(jobs, run) == 1
    assert done == [0, 2]
    (left,) = tmp_path.iterdir()
    assert left.name == "1_seed=1"
    assert "seed 1" in json.loads((left / "error.json").read_text())["error"]


def test_an_interruption_ends_a_sweep(tmp_path: Path) -> None:
    jobs = read_jobs(["-m", f"folder={tmp_path}", "seed=0,1,2"], CONFIGS)
    done = []

    def run(job: Job) -> int:
        done.append(job.settings.seed)
        if job.settings.seed == 1:
            raise KeyboardInterrupt
        return 0

    assert run_jobs(jobs, run) == INTERRUPTED
    assert done == [0, 1]


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no option '--cfg'; choose -m"):
        read_jobs(["--cfg"], CONFIGS)
