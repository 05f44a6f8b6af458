"""Settings that have another name than they once had."""

from omegaconf import DictConfig, OmegaConf

# What to write in place of each.
_RENAMED = {"env.sequential": "env.repair=sequential|plain"}


def check_not_renamed(key: str) -> None:
    """Refuse the dotted name of a setting that is now called otherwise.

    Raises:
        ValueError: It is; the message says how.
    """
    if key in _RENAMED:
        raise ValueError(f"{key} is now {_RENAMED[key]}")


def check_none_renamed(settings: DictConfig) -> None:
    """Refuse settings, as those of an older run, that have one under an older name.

    Raises:
        ValueError: They have; the message names it.
    """
    for key in _RENAMED:
        if OmegaConf.select(settings, key) is not None:
            check_not_renamed(key)
