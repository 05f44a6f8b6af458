"""The interface of everything that looks for a policy."""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from amc_env import ChannelPruningEnv
from amc_env.agents.episodes import Listener, Recorder, SearchResult


class SearchFailedError(ValueError):
    """A search ended with an error after it had finished some episodes.

    Attributes:
        result: The search as far as it went: all finished episodes and the best of them, with
            ``is_complete`` False.
    """

    def __init__(self, message: str, *, result: SearchResult) -> None:
        super().__init__(message)
        self.result = result


class Searcher(ABC):
    """Looks for the policy of the greatest reward in an environment.

    A searcher of one's own implements :meth:`run`. Tables and files call it by its attribute
    ``name``, or by the name of its class where it has none.

    Attributes:
        is_single: Whether the searcher plays one episode only, however many it is given.
    """

    is_single: ClassVar[bool] = False

    @property
    def is_racing(self) -> bool:
        """Whether episodes end as soon as their first samples show that they are lost."""
        return False

    @property
    def is_sampling(self) -> bool:
        """Whether policies are compared on the first samples, which have to be like the others."""
        return False

    def search(
        self,
        env: ChannelPruningEnv,
        *,
        episodes: int,
        seed: int,
        on_episode: Listener | None = None,
        log: Path | None = None,
        start: Mapping[str, int] | None = None,
    ) -> SearchResult:
        """Search for at most ``episodes`` episodes and return all of them with the best policy.

        An interruption by Ctrl-C ends the search early; the result holds the finished episodes.

        Args:
            env: The environment.
            episodes: The greatest number of episodes.
            seed: Seed of the searcher.
            on_episode: Called with every episode as soon as it is finished.
            log: Folder in which a learner writes its learning curves; they are not written if None.
            start: How many channels each group keeps in a policy to begin from, such as the best
                at another budget. More than the budget allows are reduced by one sparsity for all.
                ``ddpg``, ``ddpg_amc``, ``cma_es`` and ``tpe`` begin there; others take no notice.

        Raises:
            ValueError: ``episodes`` is less than 1, or ``start`` names a group that does not exist.
            SearchFailedError: An error ended the search after its first episode; the finished
                episodes are in its ``result``. An earlier error is raised as it is.
            KeyboardInterrupt: The search was interrupted within its first episode.
        """
        if episodes < 1:
            raise ValueError(f"episodes is {episodes}; give at least 1")
        recorder = Recorder(env, on_episode=on_episode, log=log, start=start)
        recorder.reset(seed=seed)
        is_complete = True
        try:
            self.run(recorder, episodes=episodes, seed=seed)
        except KeyboardInterrupt:
            if not recorder.episodes:
                raise
            is_complete = False
        except Exception as error:
            if not recorder.episodes:
                raise
            raise _failed(error, recorder, seed=seed) from error
        finally:
            env.ahead.drop()
        return recorder.result(seed=seed, is_complete=is_complete)

    @abstractmethod
    def run(self, recorder: Recorder, *, episodes: int, seed: int) -> None:
        """Play at most ``episodes`` episodes on ``recorder``, which keeps them.

        ``recorder`` is a Gymnasium environment around the pruning environment, which is
        ``recorder.pruning``; ``recorder.play`` plays an episode from a list of actions, and
        ``recorder.play_all`` several that do not depend on each other's rewards.
        ``recorder.start`` is a policy to begin from, if there is one.
        """


def _failed(error: Exception, recorder: Recorder, *, seed: int) -> SearchFailedError:
    """The error to raise for an error that ended a search; it carries the finished episodes."""
    # Where memory ran out, the tensors of the failed episode have to be freed before the network
    # of the best one can be made.
    traceback.clear_frames(error.__traceback__)
    finished = len(recorder.episodes)
    reason = str(error).partition("\n")[0] or type(error).__name__
    return SearchFailedError(
        f"the search failed after {finished} finished episodes, which are kept: {reason}",
        result=recorder.result(seed=seed, is_complete=False),
    )
