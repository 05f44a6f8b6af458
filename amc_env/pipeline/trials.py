"""Episodes as the trials of an Optuna study, for optuna-dashboard to show.

Optuna takes a second to import, so it is imported only where a storage is opened.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amc_env.agents import Episode
from amc_env.extras import need

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study

_FACTS = ("number", "accuracy", "samples", "flops_ratio", "params_ratio", "at_seconds")


def check_storage(storage: str, name: str) -> None:
    """Refuse a storage that cannot be used, or that holds a study of another run with this name.

    Args:
        storage: A URL of a database, such as ``sqlite:///FILE``, or the path of a journal.
        name: The name of the study. A run with several budgets has one for each, below this name.

    Raises:
        ValueError: The storage cannot be opened, or has such a study.
    """
    import optuna

    studies = optuna.get_all_study_names(_opened(storage))
    taken = next((each for each in studies if f"{each}/".startswith(f"{name}/")), None)
    if taken:
        raise ValueError(
            f"search.storage={storage} has a study {taken!r} of an earlier run already; give "
            "another storage or another folder, or delete the study"
        )


def mirror(storage: str, name: str, groups: Sequence[str]) -> Callable[[Episode], None]:
    """What adds an episode to a study, unless the study has it from before an interruption.

    The study maximises the reward. Its parameters are the executed sparsities of the groups, and
    the other figures of an episode are its user attributes.

    Raises:
        ValueError: The storage cannot be opened.
    """
    import optuna

    # By default Optuna logs a line for every study.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=_opened(storage), study_name=name, direction="maximize", load_if_exists=True
    )
    known = {trial.user_attrs["number"] for trial in study.get_trials(deepcopy=False)}

    def add(episode: Episode) -> None:
        if episode.number not in known:
            _add(study, episode, groups)

    return add


def _add(study: "Study", episode: Episode, groups: Sequence[str]) -> None:
    from optuna.distributions import FloatDistribution
    from optuna.trial import create_trial

    trial = create_trial(
        value=episode.reward,
        params=dict(zip(groups, episode.sparsities, strict=True)),
        distributions={group: FloatDistribution(0.0, 1.0) for group in groups},
        user_attrs={fact: getattr(episode, fact) for fact in _FACTS},
    )
    study.add_trial(trial)


def _opened(storage: str) -> "BaseStorage":
    need("search.storage", "optuna", extra="agents")
    from optuna.exceptions import OptunaError
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if "://" in storage:
            return RDBStorage(storage)
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(storage))
    except (OSError, ValueError, KeyError, ImportError, OptunaError, SQLAlchemyError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"search.storage={storage} cannot be opened: {why}; give a URL such as "
            "sqlite:///studies.db, or the path of a journal such as studies.log"
        ) from error
