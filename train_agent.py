"""Find how much to prune each layer of a network, prune it, and repair what is left.

uv run train_agent.py                                  the quickstart on scikit-learn's digits
uv run train_agent.py budget.flops=0.3 agent=td3       every setting can be overridden
uv run train_agent.py -m reward=accuracy,random seed=0,1
uv run train_agent.py resume=runs/RUN                  goes on with a run that was killed
uv run train_agent.py study=entropy_reward scale=smoke an experiment of the papers, with its table
uv run train_agent.py --help                           all groups and settings

``amc_env/pipeline/main.py`` has the stages on one screen. Where the package is installed without
this file, ``python -m amc_env train`` is the same command.
"""

import sys

from amc_env.studies.main import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
