"""The stages of ``train_agent.py``: from a configuration to a run's folder."""
