"""The interface of everything that looks for a policy."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from agents.episodes import Listener, Recorder, SearchResult
from amc_env import ChannelPruningEnv


class Searcher(ABC):
    """Looks for the policy of the greatest reward in an environment.

    Attributes:
        is_single: Whether it plays one episode, however many it may.
    """

    is_single: ClassVar[bool] = False

    def search(
        self,
        env: ChannelPruningEnv,
        *,
        episodes: int,
        seed: int,
        on_episode: Listener | None = None,
        log: Path | None = None,
    ) -> SearchResult:
        """The best of at most ``episodes`` episodes; an interruption keeps the best so far.

        ``log`` is a folder for the agent's own curves, where it has some.

        Raises:
            ValueError: ``episodes`` is less than 1.
            KeyboardInterrupt: Before there was any episode.
        """
        if episodes < 1:
            raise ValueError(f"episodes is {episodes}; give at least 1")
        recorder = Recorder(env, on_episode=on_episode, log=log)
        recorder.reset(seed=seed)
        is_complete = True
        try:
            self._run(recorder, episodes=episodes, seed=seed)
        except KeyboardInterrupt:
            if not recorder.episodes:
                raise
            is_complete = False
        return recorder.result(seed=seed, is_complete=is_complete)

    @abstractmethod
    def _run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        """Play no more than ``episodes`` episodes."""
