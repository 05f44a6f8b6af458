"""What every layer of a pruned network keeps and costs, as tables for people."""

import csv
import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from amc_env.export.finished import Finished
from amc_env.files import write_text
from amc_env.structure.changes import LayerChange, layer_changes

YAML_FILE = "layers.yaml"
CSV_FILE = "layers.csv"


def write_csv(run: Finished, out: Path) -> list[Path]:
    """Write ``layers.csv``: one line for each layer."""
    text = io.StringIO()
    names = [field.name for field in fields(LayerChange)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(change) for change in layer_changes(run.graph, run.policy.kept))
    write_text(out / CSV_FILE, text.getvalue())
    return [out / CSV_FILE]


def write_yaml(run: Finished, out: Path) -> list[Path]:
    """Write ``layers.yaml``: the whole network, then one line for each layer."""
    # JSON is YAML, so the package need not depend on a writer of YAML.
    lines = [f"{name}: {json.dumps(value)}" for name, value in _network(run).items()]
    layers = [
        f"- {json.dumps(asdict(change))}" for change in layer_changes(run.graph, run.policy.kept)
    ]
    write_text(out / YAML_FILE, "\n".join([*lines, "layers:", *layers]) + "\n")
    return [out / YAML_FILE]


def _network(run: Finished) -> dict[str, Any]:
    policy, graph = run.policy, run.graph
    before, after = graph.cost(), graph.cost(policy.counts)
    known = {
        "model": policy.model,
        "criterion": policy.criterion,
        "seed": policy.seed,
        "accuracy": policy.accuracy,
        "metric": policy.metric,
        "measured_on": policy.measured_on,
        "macs_before": before.flops,
        "macs_after": after.flops,
        "params_before": before.params,
        "params_after": after.params,
    }
    return {name: value for name, value in known.items() if value is not None}
