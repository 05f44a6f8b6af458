"""The numbers of AMC's agent, apart from the agent, so that reading them imports no learner."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amc_env.agents.options import FRACTION, SHARE, YES_OR_NO, Rule, check_values, real, whole

_RULES: Mapping[str, Rule] = {
    "hidden_sizes": (
        lambda x: isinstance(x, tuple) and bool(x) and all(whole(1)[0](width) for width in x),
        "one or more widths of at least 1",
    ),
    "actor_learning_rate": real(lambda x: 0 < x < 1, "a number in (0, 1)"),
    "critic_learning_rate": real(lambda x: 0 < x < 1, "a number in (0, 1)"),
    "tau": SHARE,
    "gamma": FRACTION,
    "batch_size": whole(1),
    "gradient_steps": whole(1),
    "warmup_episodes": whole(0),
    "warmup_around_actor": YES_OR_NO,
    "sigma": real(lambda x: 0 < x < float("inf"), "a positive finite number"),
    "sigma_decay": SHARE,
    "replay_episodes": whole(1),
    "baseline_decay": real(lambda x: 0 <= x < 1, "a number in [0, 1)"),
    "normalise_observations": YES_OR_NO,
    "scale_rewards": YES_OR_NO,
    "explored_share": SHARE,
    "imitated_episodes": whole(0),
    "episodes_per_update": whole(1),
}


@dataclass(frozen=True, kw_only=True)
class AMCSettings:
    """The settings of AMC's agent; ``docs/agents.md`` compares each value with AMC's own.

    Attributes:
        hidden_sizes: Widths of the hidden layers of actor and critic.
        actor_learning_rate: Adam's learning rate for the actor.
        critic_learning_rate: Adam's learning rate for the critic.
        tau: Share of the networks that each gradient step adds to their target networks.
        gamma: Discount of the next state's value.
        batch_size: Environment steps sampled for one gradient step.
        gradient_steps: Gradient steps for each step of an episode; they are done once it has ended.
        warmup_episodes: Episodes with uniform random actions and without gradient steps.
        warmup_around_actor: Whether the warm-up draws its actions around the actor's, with the
            deviation ``sigma``, instead of uniformly. It suits an actor that was trained before,
            as by ``AMCDDPG.imitate_``.
        sigma: Deviation of the truncated normal noise in the first episode after the warm-up.
        sigma_decay: Factor by which the deviation shrinks from episode to episode.
        replay_episodes: Episodes that the replay buffer holds.
        baseline_decay: Weight of the previous reward baseline in its moving average.
        normalise_observations: Whether the networks see observations less their running mean, over
            their running deviation.
        scale_rewards: Whether rewards are divided by their deviation over the episodes held.
        explored_share: Share of the steps of an episode whose actions are noisy; at the others the
            actor's own action is taken. The fewer, the clearer it is which of them changed the
            reward.
        imitated_episodes: After every gradient step, the actor also takes one towards the actions
            of so many best episodes held (self-imitation, Oh et al. 2018); 0 for none.
        episodes_per_update: Episodes after the warm-up that one actor plays before it learns from
            all of them; they can be evaluated side by side.

    Raises:
        ValueError: A value has the wrong type or is out of its range.
    """

    hidden_sizes: Sequence[int] = (300, 300)
    actor_learning_rate: float = 1e-4
    critic_learning_rate: float = 1e-3
    tau: float = 0.01
    gamma: float = 1.0
    batch_size: int = 64
    gradient_steps: int = 1
    warmup_episodes: int = 100
    warmup_around_actor: bool = False
    sigma: float = 0.5
    sigma_decay: float = 0.95
    replay_episodes: int = 100
    baseline_decay: float = 0.95
    normalise_observations: bool = True
    scale_rewards: bool = False
    explored_share: float = 1.0
    imitated_episodes: int = 0
    episodes_per_update: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.hidden_sizes, list):
            # A configuration file has lists only.
            object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        check_values("agent 'ddpg'", vars(self), _RULES)

    def sigma_of_episode(self, episode: int) -> float:
        """Deviation of the noise in an episode, counted from 0, warm-up included."""
        after_warmup = max(episode - self.warmup_episodes, 0)
        # The power underflows to 0 after thousands of episodes, and 0 has no distribution.
        return max(self.sigma * self.sigma_decay**after_warmup, sys.float_info.epsilon)
