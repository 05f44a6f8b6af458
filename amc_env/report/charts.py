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


def episodes(found: Episodes, metric: Metric) -> go.Figure:
    """Reward and metric of every episode, with the greatest reward until then."""
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
    return figure.update_layout(xaxis_title="episode", yaxis={"autorange": "reversed"})


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
    """The scores of a group's channels, greatest first, with those that stay; a menu chooses it."""
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
    menu = [_choice(details.groups, number) for number in range(len(details.groups))]
    return figure.update_layout(
        updatemenus=[{"buttons": menu, "x": 0.0, "xanchor": "left", "y": 1.25}],
        xaxis_title="channel, by its score",
        yaxis_title="score",
    )


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


def _bars(names: list[str], before: list[int], after: list[int], *, unit: str) -> go.Figure:
    shares = [now / was if was else 1.0 for was, now in zip(before, after, strict=True)]
    figure = go.Figure(
        [
            go.Bar(x=names, y=before, name=_ORIGINAL, marker_color=BEFORE),
            go.Bar(
                x=names,
                y=after,
                name="pruned",
                marker_color=AFTER,
                customdata=shares,
                hovertemplate=f"%{{x}}: %{{y:,}} {unit}, %{{customdata:.0%}}<extra></extra>",
            ),
        ]
    )
    return figure.update_layout(barmode="overlay", yaxis_title=unit, xaxis_tickangle=-60)


def _choice(groups: Sequence[GroupDetails], number: int) -> dict[str, object]:
    """A menu's entry that shows the two traces of one group."""
    shown = [index // 2 == number for index in range(2 * len(groups))]
    return {"label": groups[number].name, "method": "update", "args": [{"visible": shown}]}
