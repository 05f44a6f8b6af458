"""Channel pruning as a Gymnasium environment: one step decides one group of channels."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn
from typing_extensions import override

from amc_env.criteria import Criterion, make_criterion
from amc_env.data import PruningData
from amc_env.env.ahead import Ahead
from amc_env.env.bench import Benches
from amc_env.env.budget import Budget, BudgetKeeper
from amc_env.env.observation import Observer, feature_names, macs_by_layer
from amc_env.env.payment import Payment, Split
from amc_env.env.rendering import draw, tabulate
from amc_env.env.settings import Budgeting, EnvSettings
from amc_env.env.trial import Outcome, Trial
from amc_env.env.trials import Trials
from amc_env.env.walk import Walk
from amc_env.evaluation import Evaluator
from amc_env.memory import Compute, Memory, forgetful
from amc_env.policy import Policy, make_policy
from amc_env.repair.pruner import Pruner, checked_labels
from amc_env.rewards import Reward, RewardContext, make_reward
from amc_env.rewards.functions import check_task
from amc_env.structure import ChannelGraph
from amc_env.tasks import Task, make_task
from amc_env.tensor_store import TensorStore

Observation = NDArray[np.float32]
Action = NDArray[np.float32]


class ChannelPruningEnv(gym.Env[Observation, Action]):
    """An environment in which an episode prunes one network; a step decides one channel group.

    An action in [0, 1] asks for the sparsity of the group. The sparsity is rounded to whole
    channels and clipped to the bounds of the group and, unless ``budgeting`` says otherwise, to
    what the budget still allows; ``info["executed"]`` is the sparsity that results, and
    ``info["sparsities"]`` of the last step has those of all groups in the network. The reward of
    every step but the last is 0; the last step is paid for the compact, repaired network.

    ``reset(options={"floor": R})`` begins an episode whose evaluation stops as soon as the reward
    cannot reach ``R`` any more; see :meth:`Trial.race`. ``reset(options={"budgeting": "clip"})``
    begins one that is held to the budget otherwise than the settings say.

    Args:
        model: A trained network. It is not modified.
        data: Calibration samples, the validation split on which rewards are computed, and the
            selection split on which finalists are judged.
        criterion: The criterion that ranks channels, by name or as an object.
        reward: A name, weights by name, or a function of ``RewardContext``.
        budget: What may be left of the network's cost; no limit if None.
        task: What the network is trained for, by name or as an object.
        settings: Bounds of the groups, repair and evaluation.
        render_mode: ``ansi`` for a table, ``rgb_array`` for a picture.
        memory: Is asked for every outcome before it is computed, and for the format in which
            networks are evaluated before it is measured. A run that was interrupted has one.
        store: Keeps the scores and factors that calibration ends in, for another environment of the
            same network, samples and settings.

    Raises:
        ValueError: An argument is wrong, or arguments do not fit together. All that can be known
            from the arguments is checked before the network is calibrated.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (declared so by Gymnasium)
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
    }

    def __init__(  # noqa: PLR0913 (gymnasium.make passes render_mode; the last two are no settings)
        self,
        *,
        model: nn.Module,
        data: PruningData,
        criterion: str | Criterion = "l2",
        reward: str | Reward | Mapping[str, float] = "accuracy",
        budget: Budget | None = None,
        task: str | Task = "classification",
        settings: EnvSettings | None = None,
        render_mode: str | None = None,
        memory: Memory = forgetful,
        store: TensorStore | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode {render_mode!r} does not exist; choose ansi, rgb_array")
        self.render_mode = render_mode
        self.settings = settings or EnvSettings()
        reward = make_reward(reward)
        self.task = make_task(task)
        check_task(reward, self.task)
        ranks = make_criterion(criterion)
        # The graph refuses a model without parameters.
        self.data = data = data.to(next((p.device for p in model.parameters()), "cpu"))
        self._check_labels(ranks)
        self.graph = ChannelGraph(
            model,
            data.calibration.first(2),
            ignore=self.settings.ignore,
            round_to=self.settings.multiple(budget),
        )
        self._begin_(budget)
        benches = Benches(self.graph, data, settings=self.settings, task=self.task, memory=memory)
        payment = Payment(reward=reward, task=self.task, benches=benches)
        self.pruner = Pruner(
            self.graph,
            data.calibration,
            ranks,
            repair=self.settings.repair,
            norm_format=benches.choice.format,
            task=self.task,
            store=store,
        )
        self._use_(Trials(self.pruner, payment, memory=memory, seed=self.settings.seed))

    def with_budget(self, budget: Budget | None) -> "ChannelPruningEnv":
        """This environment with another budget, made without another calibration.

        Structure, calibration, scores, factors, the original network's outputs and the
        outcomes of all policies that either environment has tried are shared; none of them depends
        on the budget. Episodes, spaces and random numbers are each environment's own. An
        environment of ``gymnasium.make`` has this method as ``env.unwrapped.with_budget``.

        Args:
            budget: What may be left of the network's cost; no limit if None.

        Raises:
            ValueError: The budget cannot be met.
        """
        other = copy.copy(self)
        other._begin_(budget)
        other._use_(self._trials.sharing(seed=self.settings.seed))
        return other

    def alone(self) -> "ChannelPruningEnv":
        """This environment for another process: it has no outcomes, and asks no memory for any."""
        other = copy.copy(self)
        other._use_(self._trials.alone())
        return other

    @override
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._trials.draw_from_(seed)
        self._restart_(options or {})
        if self._floor is not None:
            self._payment.check_raced()
        return self._observe(), {}

    @override
    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        decided = self._walk.decided
        if len(decided) == len(self.graph.groups):
            raise RuntimeError("the episode is over; call reset() first")
        group = self.graph.groups[len(decided)]
        asked = float(np.asarray(action, dtype=np.float64).reshape(-1)[0])
        self._walk.decide_(group, asked)
        cost = self.graph.cost(decided)
        info: dict[str, Any] = {
            "group": group.name,
            "asked": asked,
            "executed": self._walk.last_sparsity,
            "kept": decided[group.name],
            "flops": cost.flops,
            "params": cost.params,
        }
        is_last = len(decided) == len(self.graph.groups)
        reward = 0.0
        if is_last:
            reward, ending = self._finish()
            info |= ending
        return self._observe(), reward, is_last, False, info

    @override
    def render(self) -> Any:
        if self.render_mode == "ansi":
            return tabulate(self.graph, self._walk.decided)
        if self.render_mode == "rgb_array":
            return draw(self.graph, self._walk.decided)
        return None

    @property
    def evaluator(self) -> Evaluator:
        """Runs networks on the validation split."""
        return self._payment.benches.validation.evaluator

    @property
    def ahead(self) -> Ahead:
        """Evaluates candidates before their episodes, if there is somebody to do so."""
        return self._trials.ahead

    @ahead.setter
    def ahead(self, ahead: Ahead) -> None:
        self._trials.ahead = ahead

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the numbers in an observation."""
        return feature_names(has_errors=self.settings.observe_errors)

    @property
    def counts(self) -> dict[str, int]:
        """How many channels each group keeps, of the groups that this episode has decided."""
        return dict(self._walk.decided)

    def rehearse(
        self, act: Callable[[Observation], float], *, budgeting: Budgeting | None = None
    ) -> dict[str, int]:
        """The numbers of channels that an episode would keep, without evaluating its network.

        Args:
            act: The action at an observation.
            budgeting: How the episode is held to the budget; as the settings say if None.
        """
        walk = Walk(self.keeper, budgeting or self.settings.budgeting)
        for group in self.graph.groups:
            # Agents act in the precision of the action space.
            walk.decide_(group, float(np.float32(act(self._observed(walk)))))
        walk.end_()
        return walk.decided

    def expect(
        self,
        candidates: Sequence[Mapping[str, int]],
        *,
        samples: int | None = None,
        floor: float | None = None,
    ) -> None:
        """Have candidates evaluated side by side, where somebody does so ahead of their episodes.

        Whatever is known already is left out, and so is a reward that pays a policy differently
        every time.

        Args:
            candidates: How many channels each group keeps, in the order of the episodes.
            samples: How many validation samples will be asked for; all if None.
            floor: The reward that their races will be about; None if they are not raced.
        """
        self._trials.expect(candidates, samples=samples, floor=floor)

    def evaluate(self, counts: Mapping[str, int]) -> Outcome:
        """The outcome of keeping these numbers of channels, without playing an episode.

        Groups that are not named keep all their channels.

        Raises:
            ValueError: A group does not exist or cannot keep that many channels.
        """
        return self.trial(counts).outcome()

    def trial(self, counts: Mapping[str, int]) -> Trial:
        """The network of these numbers of channels, to be evaluated on a part of the samples.

        An episode that keeps the same numbers while the trial is held goes on with it, so that no
        sample is run twice, unless the reward pays a policy differently every time. Groups that are
        not named keep all their channels.

        Raises:
            ValueError: A group does not exist or cannot keep that many channels.
        """
        return self._trials.trial(counts)

    def pay(self, compact: nn.Module, counts: Mapping[str, int]) -> Outcome:
        """The outcome of a compact network that is made already, however it was repaired.

        Args:
            compact: The network.
            counts: How many channels each group keeps in it.

        Raises:
            ValueError: The reward is no finite number.
        """
        return self._payment.outcome(self.context(compact, counts))

    def judge(self, compact: nn.Module, counts: Mapping[str, int]) -> Outcome:
        """As ``pay``, on the selection split; on the validation split where the data has none.

        A search tries many policies on the validation split, so the greatest of its rewards are
        partly luck with these samples. Its best policies are better compared on others.
        """
        return self._payment.outcome(self.context(compact, counts, on="selection"))

    def context(
        self,
        compact: nn.Module,
        counts: Mapping[str, int],
        *,
        on: Split = "validation",
    ) -> RewardContext:
        """What rewards read of a compact network; several rewards share its outputs.

        Args:
            compact: The network.
            counts: How many channels each group keeps in it.
            on: The split on which rewards are computed. On the selection split they read feature
                maps of its samples too. Where the data has no selection split, validation serves.
        """
        draw = self._trials.draw(sorted(counts.items()))
        return self._payment.context(compact, counts, draw=draw, on=on)

    def remembered(self, counts: Mapping[str, int], what: str, compute: Compute) -> Any:
        """A result for these numbers of channels and the reward from memory, or else computed.

        Args:
            counts: How many channels each group keeps; all of those that are not named.
            what: Tells the result from others for the same numbers.
            compute: Computes it, as something that JSON can hold.
        """
        return self._trials.remembered(counts, what, compute)

    def use_reward_(self, reward: str | Reward | Mapping[str, float]) -> None:
        """Pay all further episodes by another reward.

        Raises:
            ValueError: The reward does not exist, or reads layers that the network does not have.
        """
        made = make_reward(reward)
        payment = Payment(reward=made, task=self.task, benches=self._payment.benches)
        self._use_(self._trials.paid_by(payment))

    def policy(self, counts: Mapping[str, int], *, seed: int = 0) -> Policy:
        """The policy that keeps the best-ranked channels of every group, in these numbers.

        Args:
            counts: How many channels each group keeps.
            seed: Seed of the search that found the numbers; the policy records it.
        """
        return make_policy(
            self.graph,
            self.pruner.kept(counts),
            criterion=self.pruner.criterion.name,
            budget={n: r for n, (_, r) in self.budget.limits().items()} if self.budget else {},
            seed=seed,
        )

    def _begin_(self, budget: Budget | None) -> None:
        """Set all that depends on the budget or that one environment must not share."""
        self.budget = budget
        self.keeper = BudgetKeeper(
            self.graph,
            budget,
            min_keep=self.settings.min_keep,
            max_keep=self.settings.max_keep,
        )
        features = len(self.feature_names)
        # It knows the target; it is made anew when it is needed.
        vars(self).pop("_observer", None)
        # Spaces draw random numbers, and so does an environment.
        self.observation_space = spaces.Box(0.0, 1.0, (features,), np.float32)
        self.action_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self._np_random, self._np_random_seed = None, None
        # What Gymnasium's registry writes there names the budget.
        self.spec = None
        self._restart_({})

    def _restart_(self, options: dict[str, Any]) -> None:
        """Begin an episode."""
        self._floor = options.get("floor")
        self._walk = Walk(self.keeper, options.get("budgeting", self.settings.budgeting))

    def _use_(self, trials: Trials) -> None:
        self._trials = trials

    @property
    def _payment(self) -> Payment:
        return self._trials.payment

    @cached_property
    def _observer(self) -> Observer:
        errors = None
        if self.settings.observe_errors:
            errors = {g.name: self.pruner.squared_errors(g.name) for g in self.graph.groups}
        target = self.budget.target() if self.budget else 1.0
        costs = macs_by_layer
        if self.budget and self.budget.table and self.budget.latency is not None:
            costs = self.budget.table.by_layer
        return Observer(self.graph, target=target, costs=costs, errors=errors)

    def _observe(self) -> Observation:
        return self._observed(self._walk)

    def _observed(self, walk: Walk) -> Observation:
        return self._observer.observe(
            len(walk.decided), walk.decided, last_sparsity=walk.last_sparsity
        )

    def _finish(self) -> tuple[float, dict[str, Any]]:
        self._walk.end_()
        decided = self._walk.decided
        trial = self.trial(decided)
        outcome = trial.outcome() if self._floor is None else trial.race(self._floor)
        full = self.graph.cost()
        return outcome.reward, {
            "accuracy": outcome.accuracy,
            "reward_parts": dict(outcome.parts),
            "flops": outcome.flops,
            "flops_ratio": outcome.flops / full.flops,
            "params": outcome.params,
            "params_ratio": outcome.params / full.params,
            "counts": dict(decided),
            "sparsities": tuple(1.0 - decided[g.name] / g.channels for g in self.graph.groups),
            "samples": outcome.samples,
            "seconds": dict(trial.seconds),
            "policy": self.policy(decided),
        }

    def _check_labels(self, criterion: Criterion) -> None:
        """Refuse labels that are none of the task's, and a criterion that needs others."""
        for split in (self.data.validation, self.data.judging):
            self.task.check_labels(split.labels, samples=len(split))
        given = self.data.calibration
        if given.labels is not None:
            self.task.check_labels(given.labels, samples=len(given))
        checked_labels(criterion, given, self.task)
