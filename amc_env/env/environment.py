"""Channel pruning as a Gymnasium environment: one step decides one group of channels."""

import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any, Literal, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn
from typing_extensions import override

from amc_env.batches import Batch
from amc_env.criteria import Criterion, make_criterion
from amc_env.data import PruningData, Source
from amc_env.env.ahead import Ahead, Request
from amc_env.env.bench import Bench
from amc_env.env.budget import Budget, BudgetKeeper
from amc_env.env.observation import Observer, feature_names, macs_by_layer
from amc_env.env.rendering import draw, tabulate
from amc_env.env.settings import Budgeting, EnvSettings
from amc_env.env.trial import Judge, Outcome, Trial, first_question
from amc_env.env.tried import Kept, Tried
from amc_env.env.walk import Walk
from amc_env.evaluation import Evaluator
from amc_env.folding import folds_of
from amc_env.memory import Compute, Memory, forgetful, has
from amc_env.names import name_of
from amc_env.policy import Policy, make_policy
from amc_env.precision import Choice
from amc_env.repair.pruner import Pruner, checked_labels
from amc_env.rewards import NetworkLayers, Reward, RewardContext, WeightedSum, make_reward
from amc_env.rewards.bounds import has_upper_bound, upper_bound
from amc_env.rewards.functions import check_layers, check_task, is_repeatable
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

    Attributes:
        ahead: Evaluates candidates before their episodes, if there is somebody to do so.

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
        self._memory = memory
        self.ahead = Ahead()
        self._reward = make_reward(reward)
        self.task = make_task(task)
        check_task(self._reward, self.task)
        ranks = make_criterion(criterion)
        # The graph refuses a model without parameters.
        self.data = data = data.to(next((p.device for p in model.parameters()), "cpu"))
        self._check_labels(ranks)
        example = data.calibration.first(2)
        self.graph = ChannelGraph(
            model,
            example,
            ignore=self.settings.ignore,
            round_to=self.settings.multiple(budget),
        )
        model = self.graph.model
        self._begin_(budget)
        self._layers = NetworkLayers.of(self.graph)
        check_layers(self._reward, self._layers)
        # A run over a whole split takes long. The sample with the greatest label is enough to find
        # out whether the network runs and has a score for every class.
        for split in (data.validation, data.judging):
            one = split.with_greatest_label()
            Evaluator(one, precision="float32", task=self.task).outputs(model)
        self._folds = folds_of(model, example)
        self._choice = self._chosen(model)
        self.evaluator = self._evaluator(data.validation)
        self.pruner = Pruner(
            self.graph,
            data.calibration,
            ranks,
            repair=self.settings.repair,
            norm_format=self._choice.format,
            task=self.task,
            store=store,
        )
        self._validation = self._bench(self.evaluator, mapped=data.calibration)
        self._forget_()

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
        return other

    def alone(self) -> "ChannelPruningEnv":
        """This environment for another process: it has no outcomes, and asks no memory for any."""
        other = copy.copy(self)
        other._be_alone_()
        return other

    @override
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._begin_draws_(seed)
        self._restart_()
        options = options or {}
        self._floor = self._checked_floor(options.get("floor"))
        self._walk = Walk(self.keeper, options.get("budgeting", self.settings.budgeting))
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
        if not self.ahead.is_on or not is_repeatable(self._reward):
            return
        requests = [self._request(counts, samples, floor) for counts in candidates]
        self.ahead.expect([request for request in requests if request])

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
        # Trials are looked up by the groups that exist, so a name that does not exist has to be
        # refused before.
        self.pruner.kept(counts)
        if not is_repeatable(self._reward):
            return self._new_trial(counts, {})
        return self._tried.trial(self._kept(counts), partial(self._new_trial, counts))

    def pay(self, compact: nn.Module, counts: Mapping[str, int]) -> Outcome:
        """The outcome of a compact network that is made already, however it was repaired.

        Args:
            compact: The network.
            counts: How many channels each group keeps in it.

        Raises:
            ValueError: The reward is no finite number.
        """
        return self._paid(self.context(compact, counts))

    def judge(self, compact: nn.Module, counts: Mapping[str, int]) -> Outcome:
        """As ``pay``, on the selection split; on the validation split where the data has none.

        A search tries many policies on the validation split, so the greatest of its rewards are
        partly luck with these samples. Its best policies are better compared on others.
        """
        return self._paid(self.context(compact, counts, on="selection"))

    def context(
        self,
        compact: nn.Module,
        counts: Mapping[str, int],
        *,
        on: Literal["validation", "selection"] = "validation",
    ) -> RewardContext:
        """What rewards read of a compact network; several rewards share its outputs.

        Args:
            compact: The network.
            counts: How many channels each group keeps in it.
            on: The split on which rewards are computed. On the selection split they read feature
                maps of its samples too. Where the data has no selection split, validation serves.
        """
        bench = self._validation if on == "validation" else self._selection
        return bench.context(compact, counts, draw=self._draw(sorted(counts.items())))

    def remembered(self, counts: Mapping[str, int], what: str, compute: Compute) -> Any:
        """A result for these numbers of channels and the reward from memory, or else computed.

        Args:
            counts: How many channels each group keeps; all of those that are not named.
            what: Tells the result from others for the same numbers.
            compute: Computes it, as something that JSON can hold.
        """
        what = self._called(counts, what)
        return self._memory(what, partial(self.ahead, what, compute))

    def use_reward_(self, reward: str | Reward | Mapping[str, float]) -> None:
        """Pay all further episodes by another reward.

        Raises:
            ValueError: The reward does not exist, or reads layers that the network does not have.
        """
        made = make_reward(reward)
        check_task(made, self.task)
        check_layers(made, self._layers)
        self._reward = made
        self._forget_()

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
        self._begin_draws_(self.settings.seed)
        # What Gymnasium's registry writes there names the budget.
        self.spec = None
        self._restart_()

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

    def _restart_(self) -> None:
        self._walk = Walk(self.keeper, self.settings.budgeting)
        self._floor = None

    def _be_alone_(self) -> None:
        self._memory, self.ahead = forgetful, Ahead()
        self._forget_()

    def _forget_(self) -> None:
        """Forget the outcomes of all networks, but not those that another environment shares."""
        self._tried = Tried()

    def _kept(self, counts: Mapping[str, int]) -> Kept:
        return tuple(counts.get(group.name, group.channels) for group in self.graph.groups)

    def _called(self, counts: Mapping[str, int], what: str) -> str:
        """What a memory calls a result for these numbers of channels."""
        return f"{name_of(self._reward)}, {what}: {[*self._kept(counts)]}"

    def _request(
        self, counts: Mapping[str, int], samples: int | None, floor: float | None
    ) -> Request | None:
        """A candidate to be evaluated, or None if its outcome is known."""
        kept = self._kept(counts)
        seen, known = self._tried.seen(kept), self._tried.known(kept)
        first = first_question(self.evaluator, samples=samples, floor=floor, seen=seen, known=known)
        question = first and self._called(counts, first)
        if question is None or has(self._memory, question):
            return None
        counts = dict(counts)
        return Request(counts=counts, question=question, samples=samples, floor=floor, seen=seen)

    def _new_trial(self, counts: Mapping[str, int], known: dict[int, Outcome]) -> Trial:
        # Counted, and not taken from a generator, because a memory may answer for some trials.
        self._number += 1
        draw = self._draw(self._number)
        memory = partial(self.remembered, counts)
        if not is_repeatable(self._reward):
            memory = partial(self._remembered_once, counts, self._number)
        return Trial(
            counts,
            prune=partial(self.pruner.prune, counts),
            judge=Judge(pay=partial(self._pay, counts, draw), bound=partial(self._bound, counts)),
            evaluator=self.evaluator,
            known=known,
            memory=memory,
        )

    def _remembered_once(
        self, counts: Mapping[str, int], number: int, what: str, compute: Compute
    ) -> Any:
        return self.remembered(counts, f"{what}, trial {number}", compute)

    def _draw(self, key: object) -> float:
        """A uniform random number from 0 to 1 that depends on the seed and a key."""
        seed = zlib.crc32(f"{self._seed} {key}".encode())
        return float(np.random.default_rng(seed).random())

    def _begin_draws_(self, seed: int) -> None:
        self._seed, self._number = seed, 0

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

    def _checked_floor(self, floor: float | None) -> float | None:
        if floor is not None and not has_upper_bound(self._reward, self.task):
            raise ValueError(
                f"the reward {name_of(self._reward)!r} cannot be raced, because samples that are "
                "not evaluated yet could change it in either direction; do not race, or choose "
                "accuracy, loss, neg_error_log_flops or kl_to_original"
            )
        return floor

    @cached_property
    def _selection(self) -> Bench:
        # Made only for those who ask, because it takes a run of the original network.
        if self.data.selection is None:
            return self._validation
        return self._bench(self._evaluator(self.data.selection), mapped=self.data.selection)

    def _chosen(self, model: nn.Module) -> Choice:
        """The format in which networks are evaluated. A clock may decide, so it is remembered."""
        evaluator = Evaluator(
            self.data.validation,
            batch=self.settings.evaluation_batch,
            precision=self.settings.precision,
            task=self.task,
        )
        return Choice.of(
            self._memory("format of evaluations", lambda: asdict(evaluator.choose(model)))
        )

    def _evaluator(self, split: Source) -> Evaluator:
        return Evaluator(
            split.resident(),
            batch=self.settings.evaluation_batch,
            precision=self._choice,
            folds=self._folds,
            task=self.task,
        )

    def _bench(self, evaluator: Evaluator, *, mapped: Source) -> Bench:
        seed = self.settings.seed
        return Bench(self.graph, evaluator, layers=self._layers, mapped=mapped, seed=seed)

    def _pay(
        self, counts: Mapping[str, int], draw: float, compact: nn.Module, outputs: Batch
    ) -> Outcome:
        """The outcome on the samples that there are outputs of."""
        return self._paid(self._validation.context(compact, counts, draw=draw, outputs=outputs))

    @torch.no_grad()
    def _paid(self, context: RewardContext) -> Outcome:
        parts: Mapping[str, float] = {}
        if isinstance(self._reward, WeightedSum):
            parts = {name: float(part) for name, part in self._reward.values(context).items()}
            reward = float(self._reward.total(parts))
        else:
            reward = float(self._reward(context))
        if not np.isfinite(reward):
            raise ValueError(f"the reward is {reward}; a reward must give a finite number")
        return Outcome(
            reward=reward,
            parts=parts,
            accuracy=context.accuracy,
            flops=context.cost.flops,
            params=context.cost.params,
            samples=len(context.evaluator.split),
        )

    def _bound(self, counts: Mapping[str, int], compact: nn.Module, outputs: Batch) -> float:
        """The greatest reward that the samples without outputs still leave possible."""
        whole = self.context(compact, counts)
        return upper_bound(self._reward, whole, outputs)
