"""The charts of a page. Colours of text and background are the page's."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from amc_env.metric import Metric
from amc_env.report.details import Details, GroupDetails
from amc_env.report.reading import Episodes, FinishedRun, metric_of

# The same thing has the same colour in every chart.
BEFORE, AFTER, ACCENT = "#9aa5b1", "#2f7ed8", "#e07b39"
_ORIGINAL = "original"
# Pixels of a name beside a row, of the least height of all rows, and of what stands around them.
_NAME, _LEAST_HEIGHT, _MARGINS = 16, 260, 130


def episodes(found: Episodes, metric: Metric) -> go.Figure:
    """Reward and metric of every episode, and both of the best until then."""
    numbers = list(range(1, len(found.rewards) + 1))
    dots = {"mode": "markers", "marker": {"size": 5, "color": BEFORE}}
    best = {"mode": "lines", "line": {"color": AFTER, "shape": "hv"}}
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    figure.add_scatter(x=numbers, y=found.rewards, name="reward", row=1, col=1, **dots)
    figure.add_scatter(x=numbers, y=found.best, name="best until then", row=1, col=1, **best)
    figure.add_scatter(
        x=numbers,
        y=found.accuracies,
        name=metric.name,
        hovertemplate=f"%{{x}}: %{{y:{_format(metric)}}}<extra></extra>",
        row=2,
        col=1,
        **dots,
    )
    of_best = f"{metric.name} of the best"
    figure.add_scatter(x=numbers, y=found.of_best, name=of_best, row=2, col=1, **best)
    figure.update_layout(yaxis_title="reward", yaxis2_title=metric.name, xaxis2_title="episode")
    return figure.update_layout(yaxis2_tickformat=_ticks(metric))


def channels(details: Details) -> go.Figure:
    """How many channels every group has and keeps."""
    groups = details.groups
    return _bars(
        [group.name for group in groups],
        [group.channels for group in groups],
        [group.kept for group in groups],
        unit="channels",
    )


def macs(details: Details) -> go.Figure:
    """Multiply-accumulates of every layer before and after."""
    layers = details.layers
    return _bars(
        [layer.layer for layer in layers],
        [layer.macs_before for layer in layers],
        [layer.macs_after for layer in layers],
        unit="multiply-accumulates",
    )


def latencies(details: Details) -> go.Figure:
    """Milliseconds of every layer before and after."""
    found = details.latencies
    figure = _bars(
        [each.layer for each in found],
        [each.before_ms for each in found],
        [each.after_ms for each in found],
        unit="milliseconds",
        shown=".3f",
    )
    # A pruned layer can take longer, and would hide the original's.
    return figure.update_layout(barmode="group")


def policies(found: Episodes) -> go.Figure:
    """The sparsity of every group over the search."""
    figure = go.Figure(
        go.Heatmap(
            x=list(range(1, len(found.sparsities) + 1)),
            y=found.groups,
            z=[list(column) for column in zip(*found.sparsities, strict=True)],
            colorscale="Viridis",
            zmin=0.0,
            zmax=1.0,
            colorbar={"title": "sparsity"},
            hovertemplate="episode %{x}, %{y}: sparsity %{z:.2f}<extra></extra>",
        )
    )
    return figure.update_layout(
        xaxis_title="episode",
        yaxis={"autorange": "reversed", "dtick": 1},
        height=_MARGINS + max(_LEAST_HEIGHT, _NAME * len(found.groups)),
    )


def errors(details: Details) -> go.Figure:
    """The repair's error against sparsity for every group, with the chosen point."""
    figure = go.Figure()
    for group in details.groups:
        sparsities, relative = error_curve(group)
        text = f"{group.name}<br>sparsity %{{x:.2f}}: error %{{y:.3f}}<extra></extra>"
        line = {"line": {"width": 1}, "mode": "lines", "legendgroup": group.name}
        figure.add_scatter(x=sparsities, y=relative, name=group.name, hovertemplate=text, **line)
        figure.add_scatter(
            x=[sparsities[group.kept - 1]],
            y=[relative[group.kept - 1]],
            marker={"size": 9, "symbol": "diamond", "color": ACCENT},
            legendgroup=group.name,
            showlegend=False,
            hovertemplate=f"chosen for {text}",
        )
    return figure.update_layout(xaxis_title="sparsity", yaxis_title="relative error of the repair")


def scores(details: Details) -> go.Figure:
    """The scores of each group's channels, greatest first: those that stay, and those that go.

    The two traces of the first group are visible; the page lets others be chosen.
    """
    figure = go.Figure()
    for number, group in enumerate(details.groups):
        ordered = sorted(group.scores, reverse=True)
        for name, part, first in (
            ("stay", ordered[: group.kept], 1),
            ("go", ordered[group.kept :], group.kept + 1),
        ):
            figure.add_bar(
                x=list(range(first, first + len(part))),
                y=part,
                name=name,
                marker_color=AFTER if name == "stay" else BEFORE,
                visible=number == 0,
            )
    return figure.update_layout(xaxis_title="channel, by its score", yaxis_title="score")


def front(runs: Sequence[FinishedRun]) -> go.Figure:
    """The metric against multiply-accumulates of all networks, with those that no other beats."""
    points = [point for run in runs for point in network_points(run)]
    metric = metric_of(runs)
    label = f"%{{text}}<br>%{{x:.3s}} MACs, %{{y:{_format(metric)}}}<extra></extra>"
    best = pareto([(macs, accuracy) for macs, accuracy, _ in points])
    figure = go.Figure(
        [
            go.Scatter(
                x=[macs for macs, _, _ in points],
                y=[accuracy for _, accuracy, _ in points],
                text=[name for _, _, name in points],
                mode="markers",
                marker={"size": 9, "color": AFTER},
                name="networks",
                hovertemplate=label,
            ),
            go.Scatter(
                x=[macs for macs, _ in best],
                y=[accuracy for _, accuracy in best],
                line={"color": ACCENT, "shape": "hv"},
                mode="lines",
                name="Pareto front",
                hoverinfo="skip",
            ),
        ]
    )
    return figure.update_layout(
        xaxis_title="multiply-accumulates for one sample",
        yaxis={"title": f"{metric.name} on the test data", "tickformat": _ticks(metric)},
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of which no other costs no more and is more accurate, the cheapest first."""
    best: list[tuple[float, float]] = []
    for cost, accuracy in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((cost, accuracy))
    return best


def _format(metric: Metric) -> str:
    return ".2%" if metric.is_share else ".4f"


def _ticks(metric: Metric) -> str:
    return ".1%" if metric.is_share else "~g"


def error_curve(group: GroupDetails) -> tuple[list[float], list[float]]:
    """The sparsities of a group, and the relative error of the repair at each of them."""
    sparsities = [1 - kept / group.channels for kept in range(1, group.channels + 1)]
    return sparsities, [max(error, 0.0) ** 0.5 for error in group.errors]


def network_points(run: FinishedRun) -> list[tuple[float, float, str]]:
    """Multiply-accumulates, accuracy on the test data and name of every network of a run."""
    costs: Mapping[str, float] = run.metrics["network_flops"]
    accuracies: Mapping[str, float] = run.metrics["test_accuracies"]
    # A network with masks costs in truth what the original costs.
    masked = run.metrics.get("masks", {})
    return [
        (costs[name], accuracy, f"{run.name}: {name}")
        for name, accuracy in accuracies.items()
        if name not in masked
    ]


def _bars(
    names: list[str],
    before: Sequence[float],
    after: Sequence[float],
    *,
    unit: str,
    shown: str = ",",
) -> go.Figure:
    shares = [now / was if was else 1.0 for was, now in zip(before, after, strict=True)]
    figure = go.Figure(
        [
            go.Bar(
                x=names,
                y=before,
                name=_ORIGINAL,
                marker_color=BEFORE,
                hovertemplate=f"%{{x}}: %{{y:{shown}}} {unit}<extra></extra>",
            ),
            go.Bar(
                x=names,
                y=after,
                name="pruned",
                marker_color=AFTER,
                customdata=shares,
                hovertemplate=f"%{{x}}: %{{y:{shown}}} {unit}, %{{customdata:.0%}}<extra></extra>",
            ),
        ]
    )
    return figure.update_layout(barmode="overlay", yaxis_title=unit, xaxis_tickangle=-60)
