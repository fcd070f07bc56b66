"""Choosing actions: by which measure of the distribution of returns, and how to explore."""

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_distrl.common.distribution import ValueDistribution
from sb3_distrl.common.export import GreedyPolicy
from sb3_distrl.common.overlap import Overlapping
from sb3_distrl.common.policies import ValueNetwork
from sb3_distrl.functional import Distortion, as_distortion

Kept = TypeVar("Kept")


class RiskMeasure(Generic[Kept]):
    """
    An attribute that is set to the name of a risk measure or to a distortion, and kept as a distortion. It lies where SB3
    keeps, saves and restores attributes, and is read like them: torch.compile may not see through a ``__get__``, so that
    only type checkers are shown one.

    :param optional: whether ``None`` is allowed
    """

    def __init__(self, optional: bool = False) -> None:
        self.optional = optional

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    if TYPE_CHECKING:

        def __get__(self, model: Any, owner: type | None = None) -> Kept: ...

    def __set__(self, model: Any, risk: str | Kept) -> None:
        allowed = self.optional and risk is None
        vars(model)[self.name] = None if allowed else as_distortion(risk, self.name)  # type: ignore[arg-type]


class Acting(Overlapping):
    """
    SB3's ``predict`` with a draw of epsilon for each environment of a vectorised step, and with a choice of risk.

    Greedy actions maximise a distortion risk measure of the return (Dabney et al. 2018b, section 4): its mean, unless
    ``risk`` says otherwise. Two choices are separate:

    ``risk`` is for acting: in ``predict``, and so in ``evaluate_policy``, and while transitions are collected. It can be
    changed at any time, ``model.risk = "cvar:0.25"``, given to ``load(path, risk="cvar:0.25")``, and is saved with the model.
    The distributions stay those that were learnt.

    ``bootstrap_risk`` is for learning: which next action's distribution the targets bootstrap from. ``None``, the default,
    follows ``risk``, as in the paper, whose policy chooses both (equation 2): what is learnt is then the distribution of
    returns under that policy, as far as it is consistent over time, which measures other than the mean need not be. With
    "mean" the distributions are those of the policy that maximises the mean, whatever the actions are chosen by.

    ``policy.predict`` of SB3 knows of no risk, and takes the mean.
    """

    q_net: ValueNetwork  # type: ignore[assignment]
    risk = RiskMeasure[Distortion]()
    bootstrap_risk = RiskMeasure[Distortion | None](optional=True)

    @property
    def _bootstrap_risk(self) -> Distortion:
        """The risk measure that the next action of a target maximises."""
        return self.risk if self.bootstrap_risk is None else self.bootstrap_risk

    def _distribution(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """
        :param obs: observations, shape [B, ...]
        :return: atoms and their probabilities, without noise, both of shape [B, A, Z]
        :raises ValueError: if the model has no distributions
        """
        return self.q_net.distribution(obs)

    @staticmethod
    def _acting_values(network: Any, obs: PyTorchObs, deterministic: bool, risk: Distortion) -> th.Tensor:
        """
        :param network: value network of the algorithm
        :param obs: observations, shape [B, ...]
        :param deterministic: without noise or draws of fractions
        :param risk: measure of the return
        :return: the measure of each action's return, shape [B, A]
        """
        return network.acting_values(obs, deterministic, risk)

    @staticmethod
    def _as_arrays(observation: Any) -> np.ndarray | dict[str, np.ndarray]:
        """
        :param observation: one, or several; lists and numbers are taken, too
        :return: the same in arrays
        :raises ValueError: for what the ``reset`` of a Gymnasium environment returns
        """
        if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict):
            raise ValueError(
                "You have passed a tuple to the predict() function instead of a Numpy array or a Dict. It is what reset() of "
                "a Gymnasium environment returns: use `obs, info = env.reset()`, and pass obs. reset() of SB3's VecEnv "
                "returns obs alone."
            )
        if isinstance(observation, dict):
            return {key: np.asarray(part) for key, part in observation.items()}
        return np.asarray(observation)

    def _to_tensor(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[PyTorchObs, bool]:
        """
        :param observation: one, or several
        :return: on the device, shape [B, ...], and whether they were several; the policy is in evaluation mode
        :raises ValueError: for what the ``reset`` of a Gymnasium environment returns
        """
        self.policy.set_training_mode(False)
        return self.policy.obs_to_tensor(self._as_arrays(observation))

    def predict_distribution(self, observation: np.ndarray | dict[str, np.ndarray]) -> ValueDistribution:
        """
        The learnt distribution of the return after each action, without noise: of the discounted (and, if so, clipped or
        normalised) rewards from here on.

        Rainbow's atoms are those of its support, QRDQN's its ``n_quantiles`` quantiles, equally likely, and IQN's its
        ``n_eval_quantiles`` quantiles at the midpoints of as many equal parts of [0, 1].

        :param observation: one observation, or several, as ``predict`` takes them
        :return: values and probabilities of shape [A, Z], or [B, A, Z] for several
        :raises ValueError: for Rainbow with ``distributional=False``, which has no distributions
        """
        obs, vectorized = self._to_tensor(observation)
        with th.no_grad():
            values, probabilities = (part.cpu().numpy() for part in self._distribution(obs))
        return ValueDistribution(values, probabilities) if vectorized else ValueDistribution(values[0], probabilities[0])

    def q_values(self, observation: np.ndarray | dict[str, np.ndarray], risk: str | Distortion | None = None) -> np.ndarray:
        """
        The value of each action, without noise: what ``predict(deterministic=True)`` maximises.

        They are the means, or the risk measure, of what :meth:`predict_distribution` returns; but for a measure other than the
        mean, IQN evaluates the network at ``n_eval_quantiles`` distorted fractions instead.

        :param observation: one observation, or several, as ``predict`` takes them
        :param risk: measure of the return; ``None`` takes that of the model, "mean" gives expected returns
        :return: in units of discounted (and, if so, clipped or normalised) return, shape [A], or [B, A] for several
        :raises ValueError: for an unknown measure, and for Rainbow with ``distributional=False`` for any other than the mean
        """
        measure = self.risk if risk is None else as_distortion(risk)
        obs, vectorized = self._to_tensor(observation)
        with th.no_grad():
            values = self._acting_values(self.q_net, obs, True, measure).cpu().numpy()
        return values if vectorized else values[0]

    def greedy_policy(self) -> GreedyPolicy:
        """
        What ``predict(deterministic=True)`` does of the model as it is now, with its ``risk``, as a torch module to export.

        :return: the module, with a copy of the network, on its device
        """
        return GreedyPolicy(self.q_net, self._acting_values, self.risk)

    def _greedy(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None,
        episode_start: np.ndarray | None,
        deterministic: bool,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Arguments and results as in :meth:`predict`."""
        if self.risk.is_identity:
            return self.policy.predict(observation, state, episode_start, deterministic)
        obs, vectorized = self._to_tensor(observation)
        with th.no_grad():
            actions = self._acting_values(self.q_net, obs, deterministic, self.risk).argmax(dim=1).cpu().numpy()
        return actions if vectorized else actions.squeeze(axis=0), state

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions that maximise ``risk``; unless ``deterministic``, epsilon-greedily with a draw for each environment,
        and with noise.

        :param observation: one observation, or one for each of several environments
        :param state: passed through
        :param episode_start: passed through
        :param deterministic: greedy, without noise
        :return: the actions, and the state
        :raises ValueError: for what the ``reset`` of a Gymnasium environment returns
        """
        observation = self._as_arrays(observation)
        if deterministic:
            return self._greedy(observation, state, episode_start, deterministic)
        vectorized = self.policy.is_vectorized_observation(observation)
        some_obs = next(iter(observation.values())) if isinstance(observation, dict) else observation
        n_obs = len(some_obs) if vectorized else 1
        explore = np.random.rand(n_obs) < self.exploration_rate
        actions = np.empty(n_obs, dtype=np.int64)
        if not explore.all():
            actions[:], state = self._greedy(observation, state, episode_start, deterministic)
        for i in np.flatnonzero(explore):
            actions[i] = self.action_space.sample()
        return actions if vectorized else actions.squeeze(axis=0), state
