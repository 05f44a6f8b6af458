"""How well the reward of an episode agrees with the accuracy of the network that is kept.

Every policy of ``resnet56_search.csv`` (ResNet-56 on CIFAR-10) is repaired as in an episode: layer
by layer on a share of the calibration images, and by the plain repair with norms estimated again.
Accuracy and cross-entropy on the validation split are ranked against the test accuracy of the
realised networks, which stands in the file.
"""

import argparse
import csv
from pathlib import Path

import torch
import torch.nn.functional as F
from resnet56_search import environment
from scipy.stats import spearmanr

NORMS = (0, 50)


def main() -> None:
    """Print the rank correlations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="folder with data/ and models/")
    parser.add_argument("--rows", type=Path, default=Path("docs/results/resnet56_search.csv"))
    parser.add_argument(
        "--validation", type=int, default=1000, help="images of the validation split"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with options.rows.open() as file:
        rows = list(csv.DictReader(file))
    realised = [float(row["test_realised"]) for row in rows]
    for norms in NORMS:
        env, _ = environment(options.shared, "accuracy", validation=options.validation, norms=norms)
        accuracies, losses = [], []
        for row in rows:
            wanted = [1 - float(sparsity) for sparsity in row["sparsities"].split()]
            counts = {
                group.name: round(ratio * group.channels)
                for group, ratio in zip(env.graph.groups, wanted, strict=True)
            }
            logits = env.evaluator.logits(env.pruner.prune(counts).model)
            labels = env.evaluator.split.labels
            accuracies.append(float((logits.argmax(1) == labels).double().mean()))
            losses.append(-float(F.cross_entropy(logits, labels)))
        for name, values in (("accuracy", accuracies), ("loss", losses)):
            agreement = spearmanr(values, realised).statistic
            repair = f"plain, norms of {norms}" if norms else "layer by layer"
            print(f"{repair}, {name}: rank correlation {agreement:.2f}, {len(rows)} policies")


if __name__ == "__main__":
    main()
