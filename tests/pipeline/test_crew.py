"""Runs of a sweep side by side: the same as one after the other, whoever is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from searching import is_running, needs_processes

from amc_env.pipeline import CONFIGS
from amc_env.pipeline.command import INTERRUPTED, Job, begun, read_jobs
from amc_env.pipeline.crew import Crew
from amc_env.pipeline.settings_file import state_of
from amc_env.studies.main import main

QUICK = ["base.epochs=1", "search.episodes=4", "search.compare=[]", "search.finalists=1",
         "adjust.epochs=0", "finetune.epochs=0", "latency=false", "report=false", "agent=random",
         "env.precision=float32", "base.precision=float32", "split.calibration=60",
         "split.validation=300", "split.selection=100"]  # fmt: skip


def jobs_in(folder: Path, *more: str) -> list[Job]:
    return read_jobs(["-m", f"folder={folder}", "seed=0,1,2", *more], CONFIGS)


def noting(do: Callable[[Job], None]) -> Callable[[Job], int]:
    """A run that notes its process in its folder and then does something."""

    def run(job: Job) -> int:
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / f"pid-{os.getpid()}").touch()
        sys.stdout.write(f"this is seed {job.settings.seed}\n")
        do(job)
        return 0

    return run


def pids_in(folder: Path) -> list[list[int]]:
    """The processes that each run had."""
    return [
        sorted(int(path.name.removeprefix("pid-")) for path in run.glob("pid-*"))
        for run in sorted(folder.iterdir())
        if run.is_dir()
    ]


def test_a_crew_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"runs\.workers is 0; give at least 1"):
        Crew(workers=0)


def test_a_run_that_was_killed_before_it_began_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    ours, others = jobs_in(tmp_path)[:2]
    for job in (ours, others):
        state_of(job.folder).mkdir(parents=True)
        (state_of(job.folder) / "lock").touch()
    (others.folder / "notes.txt").write_text("mine")
    assert begun(ours) == ours
    assert begun(others) == others
    assert not ours.folder.exists()
    assert [path.name for path in others.folder.iterdir()] == ["notes.txt"]


def test_a_crew_is_taken_from_a_command_line() -> None:
    arguments = ["study=entropy_bins", "runs.workers=3", "seed=1", "runs.engine=ray"]
    crew, others = Crew.taken(arguments)
    assert crew == Crew(workers=3, engine="ray")
    assert others == ["study=entropy_bins", "seed=1"]
    assert Crew.taken(others) == (Crew(), others)
    with pytest.raises(ValueError, match=r"runs\.workers"):
        Crew.taken(["runs.workers=many"])


def test_one_worker_runs_in_this_process(tmp_path: Path) -> None:
    assert Crew().run(jobs_in(tmp_path), noting(lambda _: None)) == 0
    assert pids_in(tmp_path) == [[os.getpid()]] * 3


def test_an_engine_that_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["-m", f"folder={tmp_path}", "seed=0,1", "runs.workers=2", "runs.engine=rai"]
    assert main(command) == 1
    assert "engine 'rai' does not exist; the nearest is 'ray'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_sweep_under_torchrun_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["-m", f"folder={tmp_path}", "seed=0,1", "runs.workers=2"]) == 1
    assert "leave runs.workers out, or torchrun" in capsys.readouterr().err


@pytest.mark.slow
def test_side_by_side_a_run_that_fails_is_named_and_the_others_are_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(job: Job) -> None:
        if job.settings.seed == 1:
            raise ValueError("no luck with seed 1")

    assert Crew(workers=2).run(jobs_in(tmp_path), noting(fail)) == 1
    found = pids_in(tmp_path)
    assert [len(pids) for pids in found] == [1, 1, 1]
    assert os.getpid() not in {pid for pids in found for pid in pids}
    assert "1_seed=1: the run failed; " in capsys.readouterr().err
    assert "no luck with seed 1" in (tmp_path / "1_seed=1.log").read_text()
    assert "this is seed 2" in (tmp_path / "2_seed=2.log").read_text()


@pytest.mark.slow
def test_a_run_whose_process_is_killed_is_run_by_a_fresh_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()

    def die(job: Job) -> None:
        (marks / f"{job.settings.seed}-{os.getpid()}").touch()
        if job.settings.seed == 2 or len([*marks.glob("1-*")]) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    # Of the runs, one ends its process once, and another always.
    assert Crew(workers=2).run(jobs_in(tmp_path / "sweep")[1:], noting(die)) == 1
    assert len([*marks.glob("1-*")]) == 2
    assert len([*marks.glob("2-*")]) == 3
    said = capsys.readouterr()
    assert "2_seed=2: 3 processes one after the other were ended from outside" in said.err
    assert "finished the run for" in said.out


WAITING = """
import signal, sys
from pathlib import Path
from test_crew import Crew, jobs_in, noting

sys.exit(Crew(workers=2).run(jobs_in(Path(sys.argv[1])), noting(lambda _: signal.pause())))
"""


@pytest.mark.slow
@needs_processes
def test_an_interruption_ends_runs_side_by_side(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        # Where the tests run in the background, a shell has told them to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not [*tmp_path.glob("*/pid-*")] and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == INTERRUPTED
    finally:
        process.kill()
    found = [str(pid) for pids in pids_in(tmp_path) for pid in pids]
    assert found
    assert not any(map(is_running, found))


def results(folder: Path) -> dict[str, str]:
    """The policies of a sweep."""
    return {path.parent.name: path.read_text() for path in folder.glob("*/policy.json")}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_sweep_side_by_side_finds_what_it_finds_one_after_the_other(
    engine: str, tmp_path: Path
) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="Ray, which the extra ray installs, is not installed")
    one, two = tmp_path / "one", tmp_path / "two"
    sweep = ["-m", *QUICK, "seed=0,1"]
    assert main([*sweep, f"folder={one}"]) == 0
    crew = ["runs.workers=2", f"runs.engine={engine}"]
    assert main([*sweep, *crew, f"folder={two}"]) == 0
    assert len(results(one)) == 2
    assert results(two) == results(one)
