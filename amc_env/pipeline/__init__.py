"""The stages of ``train_agent.py``: from a command line to a run's folder."""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
