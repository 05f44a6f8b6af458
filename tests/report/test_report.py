"""The page about a run: what it is made of, what it shows, and that a browser draws it."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from amc_env.__main__ import main
from amc_env.pipeline import CONFIGS
from amc_env.pipeline.command import read_jobs, run_jobs
from amc_env.pipeline.main import run_job
from amc_env.report import write_report
from amc_env.report.charts import front, pareto
from amc_env.report.details import DETAILS_FILE, Details
from amc_env.report.reading import FinishedRun

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
SHORT = ["base.epochs=1", "search.episodes=5", "search.compare=[]", "agent=random",
         "adjust.epochs=0", "finetune.epochs=0", "split.validation=60"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("first", "second")):
        arguments = [*SHORT, f"seed={seed}", f"folder={folder / name}", f"report={seed == 0}"]
        assert run_jobs(read_jobs(arguments, CONFIGS), run_job) == 0
    return folder / "first", folder / "second"


@pytest.fixture
def broken(runs: tuple[Path, Path], tmp_path: Path) -> Callable[[str, str | None], Path]:
    """A copy of a run in which one file has another content, or is gone."""

    def copied(name: str, content: str | None) -> Path:
        folder = Path(shutil.copytree(runs[1], tmp_path / "copy"))
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_text(content)
        return folder

    return copied


def test_a_run_writes_its_page_unless_it_is_told_not_to(runs: tuple[Path, Path]) -> None:
    page = (runs[0] / "report.html").read_text()
    assert not (runs[1] / "report.html").exists()
    assert len(page) < 6e6
    assert "random, repaired (exported)" in page
    assert 'aria-label="Latency"' in page
    assert "train_agent.py base.epochs=1" in page
    # Nothing is fetched: the script stands in the page.
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)


def test_details_are_those_of_the_policy(runs: tuple[Path, Path]) -> None:
    run = FinishedRun.read(runs[0])
    policy = json.loads((runs[0] / "policy.json").read_text())
    kept = {group["name"]: len(group["kept"]) for group in policy["groups"]}
    assert {group.name: group.kept for group in run.details.groups} == kept
    assert sum(layer.macs_after for layer in run.details.layers) == run.metrics["flops"]
    layers = [layer.layer for layer in run.details.layers]
    assert [each.layer for each in run.details.latencies] == layers
    assert all(min(each.before_ms, each.after_ms) > 0 for each in run.details.latencies)
    for group in run.details.groups:
        assert len(group.scores) == len(group.errors) == group.channels
        assert group.errors[-1] == pytest.approx(0.0, abs=1e-3)
    # The channels that stay are those of the greatest scores.
    assert run.metrics["flops_ratio"] < 0.51
    for group, stay in zip(run.details.groups, policy["groups"], strict=True):
        gone = [group.scores[c] for c in set(range(group.channels)) - set(stay["kept"])]
        assert min(group.scores[c] for c in stay["kept"]) >= max(gone, default=0.0)


def test_episodes_have_their_running_best(runs: tuple[Path, Path]) -> None:
    episodes = FinishedRun.read(runs[0]).episodes
    assert len(episodes.rewards) == len(episodes.sparsities) == 5
    assert episodes.best[0] == episodes.rewards[0]
    assert episodes.best[-1] == max(episodes.rewards)
    assert episodes.best == sorted(episodes.best)
    assert episodes.of_best[0] == episodes.accuracies[0]
    at = episodes.rewards.index(max(episodes.rewards))
    assert episodes.of_best[-1] == episodes.accuracies[at]


def test_several_runs_are_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    write_report(runs, tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert "All runs" in page
    assert "Pareto front" in page
    assert page.count("<h2>") == 3


def test_a_page_shows_no_errors_without_a_repair_no_scores_of_rounds_and_says_what_masks_cost(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    arguments = [*SHORT, "agent=uniform", "env.repair=none", "iterative.rounds=1",
                 "iterative.epochs=0", "masks=[local]", f"folder={folder}"]  # fmt: skip
    assert run_jobs(read_jobs(arguments, CONFIGS), run_job) == 0
    page = (folder / "report.html").read_text()
    assert "Networks; MACs of masks are those of the weights left" in page
    assert "uniform, iterative (exported)" in page
    for title in ("Error and sparsity", "How the criterion ranks"):
        assert title not in page
    run = FinishedRun.read(folder)
    # A network with masks is as expensive as the original, so it is no rival on the front.
    names = front([run]).data[0].text
    assert "local magnitude masks" in run.metrics["test_accuracies"]
    assert not [name for name in names if "masks" in name]


def test_the_command_writes_a_page(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs[1]), "--out", f"{tmp_path / 'page.html'}"]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'page.html'}\n"
    assert main(["report", str(tmp_path)]) == 2
    assert "there is no metrics.json" in capsys.readouterr().err


def test_the_front_holds_what_no_other_network_beats() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (2.0, 0.8), (4.0, 0.9), (1.0, 0.3)]
    assert pareto(points) == [(1.0, 0.5), (2.0, 0.8), (3.0, 0.9)]
    assert pareto([]) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", None, r"there is no metrics.json in .*; give the folder of a finished"),
        ("metrics.json", "{", r"metrics.json is damaged"),
        (DETAILS_FILE, '{"layers": []}', rf"{DETAILS_FILE} is damaged"),
        ("episodes.csv", "number,reward,accuracy\n1,0.5", r"episodes.csv is damaged"),
        ("metrics.json", '{"budgets": {"budget.flops=0.5": {}}}', "runs of several budgets; give"),
    ],
)
def test_a_folder_that_is_no_finished_run_is_refused(
    broken: Callable[[str, str | None], Path],
    tmp_path: Path,
    name: str,
    content: str | None,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        write_report([broken(name, content)], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_run_without_latencies_has_a_page(runs: tuple[Path, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs[1], tmp_path / "copy"))
    details = json.loads((folder / DETAILS_FILE).read_text())
    assert details.pop("latencies")
    (folder / DETAILS_FILE).write_text(json.dumps(details))
    for given, is_shown in ((runs[1], True), (folder, False)):
        write_report([given], tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        assert ("Latency of layers" in page) == is_shown
        assert ('<th scope="col">ms left</th>' in page) == is_shown


def test_names_from_a_network_cannot_break_the_page(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(runs[1], tmp_path / "copy"))
    details = json.loads((folder / DETAILS_FILE).read_text())
    details["layers"][0]["layer"] = "</script><b>x"
    (folder / DETAILS_FILE).write_text(json.dumps(details))
    Details.model_validate(details)
    write_report([folder], tmp_path / "page.html")
    assert "</script><b>x" not in (tmp_path / "page.html").read_text()


HOVER = """<script>
for (const chart of document.querySelectorAll(".chart")) {
  const shown = chart._fullData.findIndex((trace) => trace.visible === true);
  // A heatmap is pointed at by the values on its axes.
  const is_map = chart._fullData[shown].type === "heatmap";
  Plotly.Fx.hover(chart, is_map ? { xval: 1, yval: 0 } : [{ curveNumber: shown, pointNumber: 0 }]);
}
</script>"""


def opened(page: Path, profile: Path) -> tuple[str, list[str]]:
    """What a browser makes of a page, and what its scripts complain of."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000",
               "--enable-logging=stderr", f"--user-data-dir={profile}"]  # fmt: skip
    done = subprocess.run(
        [str(BROWSER), *options, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


in_a_browser = pytest.mark.skipif(
    BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on the path"
)


@in_a_browser
@pytest.mark.parametrize("count", [1, 2])
def test_a_browser_draws_every_chart_without_an_error(
    runs: tuple[Path, Path], tmp_path: Path, count: int
) -> None:
    page = tmp_path / "page.html"
    write_report(runs[:count], page)
    page.write_text(page.read_text().replace("</body>", f"{HOVER}</body>"))
    drawn, complaints = opened(page, tmp_path / "profile")
    assert complaints == []
    charts = 7 * count + (count > 1)
    assert len(re.findall(r'class="hoverlayer"><g class="hovertext"', drawn)) == charts


CHOOSE = """<script>
const select = document.querySelector("select");
select.selectedIndex = 1;
select.dispatchEvent(new Event("change"));
const shown = select.closest("figure").querySelector(".chart").data;
document.title = shown.map((trace, n) => (trace.visible ? n : "")).join(" ").trim();
</script>"""


@in_a_browser
def test_the_scores_of_another_group_can_be_chosen(runs: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_report(runs[:1], page)
    page.write_text(page.read_text().replace("</body>", f"{CHOOSE}</body>"))
    drawn, complaints = opened(page, tmp_path / "profile")
    assert complaints == []
    assert "<title>2 3</title>" in drawn


@in_a_browser
def test_a_page_with_a_broken_chart_would_be_noticed(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    write_report(runs[:1], page)
    text = page.read_text()
    broken = text.replace(
        '<script type="application/json">{', '<script type="application/json">', 1
    )
    assert broken != text
    page.write_text(broken.replace("</body>", f"{HOVER}</body>"))
    drawn, complaints = opened(page, tmp_path / "profile")
    assert complaints
    assert 'class="hovertext"' not in drawn
