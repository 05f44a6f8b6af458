"""Experiments of the papers as grids of runs: ``uv run train_agent.py study=NAME scale=smoke``.

A study is a file, ``amc_env/configs/study/NAME.yaml``: what a paper claims, the settings of every
run, the paper's own figures, and how ours differ. The modules here read it, run it and make its
table.
"""

from amc_env.pipeline import CONFIGS

STUDIES = CONFIGS / "study"
# Written to the folder of a study when it begins.
PLAN_FILE = "study.json"
