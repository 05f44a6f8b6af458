"""Train an agent that decides how much to prune each layer. Not there yet: says what is."""

import sys

MISSING = """\
train_agent.py cannot train yet: the pruning environment and the agents are not written.
What works today:
  uv run python -m amc_env inspect cifar_resnet56   groups, costs and what cannot be cut
  amc_env.ChannelGraph(model, example_input)        the same in code, and compact copies
"""


def main() -> int:
    """Say what is not there yet; the exit code of a command that could not do its work."""
    sys.stderr.write(MISSING)
    return 2


if __name__ == "__main__":
    sys.exit(main())
