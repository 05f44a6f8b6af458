"""Find how much to prune each layer: compose the settings, run the stages.

uv run train_agent.py                                  the quickstart on scikit-learn's digits
uv run train_agent.py budget.flops=0.3 agent=td3       everything is an override
uv run train_agent.py -m reward=accuracy,random seed=0,1
uv run train_agent.py --help                           groups and settings
"""

import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipeline import report, stages
from pipeline.config import RunConfig
from pipeline.overrides import check_output, check_overrides

CONFIGS = Path(__file__).parent / "configs"


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(composed: DictConfig) -> None:
    """Run the stages of one run; errors are one sentence, an interruption keeps what there is."""
    try:
        config = RunConfig.of(composed)
        run = stages.start(config, Path(HydraConfig.get().runtime.output_dir))
        model, data = stages.base_model(run)
        env = stages.environment(run, model, data)
        networks = stages.search(run, env)
        rivals = stages.compare(run, env)
        networks = stages.repair(run, env, networks)
        networks = stages.finetune(run, networks, data)
        report.warn_of_rivals(run, env, networks, rivals)
        report.finish(run, env, data, networks, rivals)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if not run.is_complete:
        sys.exit(130)


if __name__ == "__main__":
    try:
        check_overrides(sys.argv[1:], CONFIGS)
        check_output(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    # Whoever ends the job gets what Ctrl-C gets.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
