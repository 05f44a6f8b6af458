"""The page of a study: what was claimed, what was run, the table, the pictures."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from amc_env.files import write_text
from amc_env.pipeline.output import ERROR_FILE
from amc_env.pipeline.table import markdown, read_run
from amc_env.studies import pictures, rows
from amc_env.studies.jobs import BASES, base_of
from amc_env.studies.plan import Plan, PlannedRun
from amc_env.studies.results import NOTHING, finished
from amc_env.studies.study import key_of
from amc_env.studies.works import WORKS

TABLE = "table"

# What a reader compares first, by the settings that say it.
_SETTINGS = {
    "data": ("data.name",),
    "network": ("model.name",),
    "epochs of the network's training": ("base.epochs",),
    "epochs of fine-tuning": ("finetune.epochs",),
    "images of an epoch of fine-tuning": ("finetune.samples",),
    "episodes of a search": ("search.episodes",),
    "images for ranking and repair": ("split.calibration",),
    "criterion": ("criterion.name",),
    "repair of an episode": ("env.repair",),
}
_GIVEN = "a checkpoint"

# What has to be said of a whole scale.
_CAUTIONS = {
    "smoke": (
        "**This scale shows that the path runs. Networks are hardly trained, so that no figure "
        "here says anything about the claim.**"
    )
}


def write(plan: Plan) -> None:
    """Write the table as Markdown and CSV, and the pictures, in the folder of a study."""
    done = finished(plan.runs)
    header, cells = _table(plan) if done else ([], [])
    drawn = list(_drawn(plan)) if done else []
    text = "\n\n".join(part for part in _parts(plan, header, cells, drawn) if part)
    write_text(plan.folder / f"{TABLE}.md", text + "\n")
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *cells])
    write_text(plan.folder / f"{TABLE}.csv", file.getvalue())


def _table(plan: Plan) -> tuple[list[str], list[list[str]]]:
    work = WORKS.get(plan.study.work)
    return work.table(plan) if work else rows.tabulated(plan)


def _drawn(plan: Plan) -> Iterator[Path]:
    if work := WORKS.get(plan.study.work):
        yield from work.draw(plan)
    elif plan.study.picture:
        yield pictures.draw_accuracies(plan, plan.study.picture)


def _parts(
    plan: Plan, header: Sequence[str], cells: Sequence[Sequence[str]], drawn: Sequence[Path]
) -> Iterator[str]:
    study = plan.study
    yield f"# {study.name}, {plan.order.scale}"
    yield f"**Source.** {study.document}"
    yield f"**Claim.** {study.claim}"
    yield f"**Command.** `{plan.order.command(plan.folder)}`"
    yield _CAUTIONS.get(plan.order.scale, "")
    yield _progress(plan)
    yield _comparison(plan)
    yield "\n".join(f"- {text}" for text in (*study.differences, *plan.scale.differences))
    if cells:
        yield markdown(header, [list(line) for line in cells], texts=len(study.axes_at(plan.scale)))
        yield _legend(plan)
    yield _missing(plan)
    yield "\n\n".join(f"![{path.stem}]({path.stem}.svg)" for path in drawn)
    yield "\n".join(_failures(plan))


def _progress(plan: Plan) -> str:
    """How many runs are finished, where some are not."""
    done, total = len(finished(plan.runs)), len(plan.runs)
    return f"**{done} of {total} runs are finished.**" if done < total else ""


def _comparison(plan: Plan) -> str:
    """The settings here beside those of the paper."""
    published = plan.study.published.setting
    ours = {title: _varied(plan, keys) for title, keys in _SETTINGS.items()}
    ours["seeds"] = str(len(plan.scale.seeds))
    ours["seconds of all runs"] = _seconds(plan)
    titles = dict.fromkeys([*ours, *published])
    lines = [[t, ours.get(t, NOTHING), published.get(t, NOTHING)] for t in titles]
    return markdown(["", "here", "in the paper"], lines, texts=3)


def _seconds(plan: Plan) -> str:
    """How long all finished runs took together."""
    each = [read_run(run.folder, plan.folder).metrics["seconds"] for run in finished(plan.runs)]
    return f"{sum(each):,.0f}"


def _varied(plan: Plan, keys: Sequence[str]) -> str:
    """All values that settings have in the runs."""
    found = dict.fromkeys(_value(plan, run, key) for run in plan.runs for key in keys)
    return ", ".join(found)


def _value(plan: Plan, run: PlannedRun, key: str) -> str:
    if key == "base.epochs" and base_of(plan, run) is None:
        return _GIVEN
    value = OmegaConf.select(run.settings, key)
    return "all" if key == "finetune.samples" and value == 0 else str(value)


def _legend(plan: Plan) -> str:
    if work := WORKS.get(plan.study.work):
        return work.legend
    return (
        "Accuracies are of test images, and were measured after everything had been chosen. "
        "Differences are paired by image and seed; their intervals come from drawing images and "
        f"seeds again, and too few seeds make them too narrow. {NOTHING}: there is no such "
        "figure. Shares in brackets are of the original network. Of the runs that share scores and "
        "factors, the first has their computation in its seconds. A run that was interrupted "
        "counts its seconds from the last start."
    )


def _missing(plan: Plan) -> str:
    """Published rows that no run here stands for."""
    published = plan.study.published.rows
    shown = {key_of(list(values)) for values in _shown(plan)}
    lines = [
        f"- {name}: {'; '.join(_said(figures.model_dump(exclude_defaults=True)))}"
        for name, figures in published.items()
        if name not in shown
    ]
    return "\n".join(["Published, without a run here:", "", *lines]) if lines else ""


def _shown(plan: Plan) -> Iterator[tuple[str, ...]]:
    networks = plan.study.networks
    for run in plan.runs:
        values = tuple(run.cell.values.values())
        yield values
        yield from ((*values, network) for network in networks)


def _said(figures: dict[str, object]) -> Iterator[str]:
    units = {"accuracy": " %", "top5": " % top-5", "params": " parameters", "macs": " M MACs"}
    for key, value in figures.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        yield f"{shown}{units.get(key, '')}"


def _failures(plan: Plan) -> Iterator[str]:
    """A line for every run and base network that failed."""
    bases = sorted((plan.folder / BASES).glob("*"))
    for folder in (*bases, *(run.folder for run in plan.runs)):
        path = folder / ERROR_FILE
        if path.is_file():
            yield f"- **failed**: {folder.name}: {json.loads(path.read_text())['error']}"
