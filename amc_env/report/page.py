"""Puts tables and charts of runs into one file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from amc_env.files import write_text
from amc_env.latency.comparison import Compared, cells
from amc_env.report.reading import FinishedRun, metric_of

_LAYER_LATENCY = (
    "Milliseconds of every layer with what hangs on it, such as its norm, in the running network: "
    "one sample, one thread, PyTorch, the least of several runs."
)
_SETTINGS = ("model", "data", "criterion", "reward_name", "agent", "seed", "episodes")


@dataclass(frozen=True, kw_only=True)
class _Chart:
    """A figure as the text of an object in JavaScript, with what it shows.

    Where there are choices, each has as many of the figure's traces as the others, in their order.
    """

    title: str
    caption: str
    figure: str
    choices: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class _Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class _Section:
    """A part of the page: first its tables, then its charts, then what is folded away."""

    title: str
    tables: Sequence[_Table]
    charts: Sequence[_Chart]
    command: str = ""
    folded: Sequence[_Table] = ()
    settings: str = ""


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Write a page about the runs in these folders.

    Raises:
        ValueError: A folder is not that of a finished run, or a file in it is damaged.
        OSError: A file of a run is missing, or the page cannot be written.
    """
    # These take a second to import, which the other commands need not spend.
    import jinja2
    from plotly.offline import get_plotlyjs

    runs = [FinishedRun.read(folder) for folder in folders]
    template = files("amc_env.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(template).render(
        title=", ".join(run.name for run in runs),
        plotly=get_plotlyjs(),
        sections=[*_together(runs), *(_section(run) for run in runs)],
    )
    write_text(out, page)


def _together(runs: Sequence[FinishedRun]) -> Iterator[_Section]:
    """What several runs are compared by; nothing for a single one."""
    if len(runs) < 2:
        return
    from amc_env.report import charts

    rows = [[run.name, *_settings(run), *_result(run)] for run in runs]
    settings = [name.removesuffix("_name") for name in _SETTINGS]
    header = ["run", *settings, "stage", metric_of(runs).name, "MACs left", "parameters left"]
    figure = charts.front(runs)
    caption = "Every network of the runs; the line joins those that no other beats."
    chart = _Chart(
        title=f"{metric_of(runs).name.capitalize()} and cost", caption=caption, figure=_text(figure)
    )
    yield _Section(
        title="All runs", tables=[_Table(title="Runs", header=header, rows=rows)], charts=[chart]
    )


def _section(run: FinishedRun) -> _Section:
    return _Section(
        title=run.name,
        tables=[_networks(run), *_latencies(run)],
        charts=list(_charts(run)),
        command=run.metrics.get("command", ""),
        folded=[_layers(run)],
        settings=run.config,
    )


def _charts(run: FinishedRun) -> Iterator[_Chart]:
    from amc_env.report import charts

    drawn = (
        ("Episodes", "Rewards and accuracies are those of the validation split.",
         charts.episodes(run.episodes, run.metric)),
        ("Channels", "Channels of every group in the original and in the pruned network.",
         charts.channels(run.details)),
        ("Cost", "Multiply-accumulates of every layer for one sample.", charts.macs(run.details)),
        ("Latency of layers", _LAYER_LATENCY,
         charts.latencies(run.details) if run.details.latencies else None),
        ("Policies", "The sparsity of every group in every episode.",
         charts.policies(run.episodes)),
        ("Error and sparsity", "What the plain repair leaves, with the chosen point of each group.",
         charts.errors(run.details) if run.details.has_errors else None),
        # Pruning in rounds ranks again and again, and iterations.json has the scores of each.
        ("Scores", "How the criterion ranks the channels of a group.",
         None if "iterative_accuracy" in run.metrics else charts.scores(run.details)),
    )  # fmt: skip
    for title, caption, figure in drawn:
        if figure is not None:
            choices = [group.name for group in run.details.groups] if title == "Scores" else []
            yield _Chart(title=title, caption=caption, figure=_text(figure), choices=choices)


def _networks(run: FinishedRun) -> _Table:
    metrics = run.metrics
    whole = metrics["network_flops"]["original"]
    rows = [
        [
            f"{name} (exported)" if name == f"{metrics['agent']}, {metrics['kept']}" else name,
            run.metric.text(accuracy),
            f"{metrics['network_flops'][name]:,}",
            f"{metrics['network_flops'][name] / whole:.3f}",
            f"{metrics['latencies_ms'][name]:.2f}",
        ]
        for name, accuracy in metrics["test_accuracies"].items()
    ]
    header = ["network", f"{run.metric.name} on the test data", "MACs", "left", "ms for 64 samples"]
    note = "; MACs of masks are those of the weights left" if "masks" in metrics else ""
    return _Table(title=f"Networks{note}", header=header, rows=rows)


def _latencies(run: FinishedRun) -> Iterator[_Table]:
    """The latencies of the original and the exported network, where the run measured them."""
    if found := run.metrics.get("latency"):
        header, rows = cells([Compared.model_validate(one) for one in found])
        yield _Table(title="Latency", header=header, rows=rows)


def _layers(run: FinishedRun) -> _Table:
    times = {each.layer: [f"{ms:.3f}" for ms in each[1:]] for each in run.details.latencies}
    rows = [
        [
            layer.layer,
            f"{layer.macs_before:,}",
            f"{layer.macs_after:,}",
            f"{layer.params_before:,}",
            f"{layer.params_after:,}",
            *(times.get(layer.layer, ["", ""]) if times else []),
        ]
        for layer in run.details.layers
    ]
    header = ["layer", "MACs", "MACs left", "parameters", "parameters left"]
    header += ["ms", "ms left"] if times else []
    return _Table(title="Layers", header=header, rows=rows)


def _settings(run: FinishedRun) -> list[str]:
    return [str(run.metrics[name]) for name in _SETTINGS]


def _result(run: FinishedRun) -> list[str]:
    metrics: dict[str, Any] = run.metrics
    accuracy = metrics["test_accuracies"][f"{metrics['agent']}, {metrics['kept']}"]
    shares = (metrics["flops_ratio"], metrics["params_ratio"])
    return [metrics["kept"], run.metric.text(accuracy), *(f"{share:.3f}" for share in shares)]


def _text(figure: Any) -> str:
    # A name of a layer could end the script that the figure stands in.
    text: str = figure.to_json()
    return text.replace("</", "<\\/")
