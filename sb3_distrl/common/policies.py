"""The value network and the policy that all algorithms share."""

import inspect
from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from torch import nn

from sb3_distrl.functional import MEAN, Distortion, greedy_actions
from sb3_distrl.networks import DEFAULT_NET_ARCH, MLP, DuelingHead, Head, Noise, NoisyLinear
from sb3_distrl.validation import number


def adam_arguments(optimizer_class: type[th.optim.Optimizer], given: dict[str, Any] | None, eps: float) -> dict[str, Any]:
    """
    Default arguments of Adam and its subclasses such as AdamW: the paper's ``eps``. Adam itself also uses the fused
    implementation, with one pass over the memory for each parameter. Other optimizers' eps means something else.

    :param given: arguments that the user gave, which are kept
    :param eps: of the algorithm's paper
    """
    arguments = dict(given or {})
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, th.optim.Adam)):
        return arguments
    if "eps" in inspect.signature(optimizer_class).parameters:
        arguments = {"eps": eps, **arguments}
    if optimizer_class is th.optim.Adam and "foreach" not in arguments:
        arguments = {"fused": True, **arguments}
    return arguments


def optimizers_of(policy: nn.Module) -> dict[str, th.optim.Optimizer]:
    """:return: the policy's optimizers, by attribute name"""
    return {name: value for name, value in vars(policy).items() if isinstance(value, th.optim.Optimizer)}


@th.no_grad()
def copy_buffers(source: nn.Module, target: nn.Module) -> None:
    """
    Copy buffers, such as batch normalisation statistics or spectral normalisation vectors, to a network with the same layers.
    """
    for buffer, copy in zip(source.buffers(), target.buffers(), strict=True):
        copy.copy_(buffer)


def channels_last(images: th.Tensor) -> th.Tensor:
    """:return: images of shape [B, C, H, W] with channels adjacent in memory, for which convolutions are fastest on a CPU"""
    return th.stack(images.unbind(1), dim=-1).permute(0, 3, 1, 2)  # faster than contiguous()


class ValueNetwork(BasePolicy):
    """
    The interface of all value networks: features, then shared hidden layers, then the head with the last hidden layer.

    All but the last layer of ``net_arch`` are shared; each stream of the head has its own last layer. For images the features
    are convolutions and ``net_arch`` is one layer, so that the streams start at the convolutions, as in the papers. With
    ``noisy`` all these layers are noisy; those of a features extractor are not affected.

    Acting and learning use the same methods, and subclasses may override any of them: :meth:`preprocess`, :meth:`encode`, and
    what computes values from features (:meth:`OutputNetwork.outputs`, ``quantiles`` in IQN). In learning, the online network
    preprocesses each batch once, for the target network as well.

    :param observation_space: observation space
    :param action_space: action space, with A actions
    :param features_extractor: the features extractor
    :param features_dim: size of its output
    :param net_arch: sizes of the hidden layers
    :param activation_fn: activation of the hidden layers
    :param normalize_images: divide images by 255
    :param dueling: whether the head is dueling (Wang et al. 2016)
    :param noisy: whether layers are noisy (Fortunato et al. 2018)
    :param noisy_std: initial noise, the paper's sigma_0
    :param n_outputs: outputs of the head for each action, Z
    :raises ValueError: for noise that is not positive, and for a subclass that overrides ``forward``
    """

    action_space: spaces.Discrete
    actions_last: ClassVar[bool] = False  # see Head

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        dueling: bool = False,
        noisy: bool = False,
        noisy_std: float = 0.5,
        n_outputs: int = 1,
    ) -> None:
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        if not type(self).forward.__module__.startswith("sb3_distrl."):
            raise ValueError(
                f"{type(self).__name__} overrides forward, but neither acting nor learning calls it: override encode, or "
                "outputs (of Rainbow's and QRDQN's networks) or quantiles (of IQN's)."
            )
        if noisy and not number("noisy_std", noisy_std, "use e.g. 0.5, or noisy=False") > 0:
            raise ValueError(f"noisy_std={noisy_std} must be positive: use e.g. 0.5, or noisy=False.")
        linear = partial(NoisyLinear, noisy_std=noisy_std) if noisy else nn.Linear
        self.features_dim, self.net_arch, self.activation_fn = features_dim, net_arch, activation_fn
        self.dueling, self.noisy, self.noisy_std = dueling, noisy, noisy_std
        self.trunk = MLP(features_dim, net_arch[:-1], None, activation_fn, linear)
        self.head = (DuelingHead if dueling else Head)(
            self.trunk.out_features, net_arch[-1:], int(action_space.n), n_outputs, activation_fn, linear, self.actions_last
        )

    def preprocess(self, obs: PyTorchObs) -> PyTorchObs:
        """
        :param obs: observations, shape [B, ...]
        :return: float tensors, the inputs of the network: images divided by 255, discrete values one-hot
        """
        return preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)

    def preprocess_batch(self, obs: PyTorchObs) -> PyTorchObs:
        """:return: the result of :meth:`preprocess` for a training batch, in the fastest memory layout for convolutions"""
        # Other extractors, and an overridden preprocess, may depend on the layout
        known = type(self.features_extractor) in DEFAULT_NET_ARCH and type(self).preprocess is ValueNetwork.preprocess
        return self.preprocess(channels_last(obs) if known and self.device.type == "cpu" else obs)  # type: ignore[arg-type]

    def encode(self, inputs: PyTorchObs, noise: Noise = Noise.OFF) -> th.Tensor:
        """
        :param inputs: of :meth:`preprocess`, shape [B, ...]
        :param noise: see :class:`~sb3_distrl.networks.Noise`
        :return: the input of the head, shape [B, features]
        """
        return self.trunk(self.features_extractor(inputs), noise)

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """
        Q-values, like SB3's ``QNetwork``. The algorithms do not call this method, so a subclass must not override it.

        :param obs: observations, shape [B, ...]
        :return: expected returns, without noise, shape [B, A]
        """
        return self.acting_values(obs)

    @abstractmethod
    def distribution(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """
        :param obs: observations, shape [B, ...]
        :return: atoms of the return and their probabilities, without noise, both of shape [B, A, Z]
        :raises ValueError: if the network has no distributions
        """

    @abstractmethod
    def acting_values(self, obs: PyTorchObs, deterministic: bool = True, risk: Distortion = MEAN) -> th.Tensor:
        """
        :param obs: observations, shape [B, ...]
        :param deterministic: without noise and random fractions
        :param risk: risk measure of the return
        :return: values that greedy actions maximise, shape [B, A]
        """

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return greedy_actions(self.acting_values(observation, deterministic))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("features_extractor", "features_dim", "net_arch", "activation_fn", "dueling", "noisy", "noisy_std")
        return {**super()._get_constructor_parameters(), **{name: getattr(self, name) for name in names}}


class OutputNetwork(ValueNetwork):
    """A value network whose head has Z outputs for each action, which describe the distribution of its return."""

    def outputs(self, inputs: PyTorchObs, noise: Noise = Noise.OFF) -> th.Tensor:
        """
        :param inputs: of :meth:`preprocess`, shape [B, ...]
        :param noise: see :class:`~sb3_distrl.networks.Noise`
        :return: logits, quantiles or values, shape [B, A, Z]
        """
        return self.head(self.encode(inputs, noise), noise)

    @abstractmethod
    def risk_values(self, outputs: th.Tensor, risk: Distortion = MEAN) -> th.Tensor:
        """
        :param outputs: of :meth:`outputs`, shape [B, A, Z]
        :param risk: risk measure of the return
        :return: the measure of each action's return, shape [B, A]
        """

    def acting_values(self, obs: PyTorchObs, deterministic: bool = True, risk: Distortion = MEAN) -> th.Tensor:
        noise = Noise.OFF if deterministic else Noise.PER_ROW
        return self.risk_values(self.outputs(self.preprocess(obs), noise), risk)


class ValuePolicy(DQNPolicy):
    """
    SB3's ``DQNPolicy`` with an online and a target value network. Takes ``DQNPolicy``'s arguments, and the network's by name.

    :param net_arch: sizes of the hidden layers; ``None``: the papers' after convolutions ([512] after ``NatureConv``, [256]
        after ``DataEfficientConv``, [128] after ``MinAtarConv``), none after SB3's ``NatureCNN``, which includes such a layer,
        and [64, 64] otherwise
    :param features_extractor_class: ``None``: the policy's default
    :param features_extractor_kwargs: its arguments. ``features_dim`` is the size of the fully connected layer after the
        convolutions, as in SB3's ``NatureCNN``. With this library's convolutions that layer belongs to the network and is its
        first hidden layer: [features_dim] replaces the papers' size, or precedes ``net_arch``
    :param optimizer_kwargs: arguments of the optimizer other than the learning rate. Adam, the default, and its subclasses,
        such as AdamW, use the eps of the algorithm's paper unless ``eps`` is given. Adam is fused unless ``fused=False`` or
        ``foreach`` is given
    :param net_kwargs: arguments of ``network_class``
    """

    network_class: ClassVar[type[ValueNetwork]]
    default_features_extractor: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    default_net_arch: ClassVar[dict[type[BaseFeaturesExtractor], list[int]]] = DEFAULT_NET_ARCH
    adam_eps: ClassVar[float]
    q_net: ValueNetwork  # type: ignore[assignment]
    q_net_target: ValueNetwork  # type: ignore[assignment]

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **net_kwargs: Any,
    ) -> None:
        if "n_outputs" in net_kwargs:
            raise ValueError(f"n_outputs={net_kwargs['n_outputs']} follows from other policy_kwargs: leave it out.")
        features_extractor_class = features_extractor_class or self.default_features_extractor
        features_extractor_kwargs = dict(features_extractor_kwargs or {})
        if self.default_net_arch.get(features_extractor_class) and "features_dim" in features_extractor_kwargs:
            net_arch = [features_extractor_kwargs.pop("features_dim"), *(net_arch or [])]
        if net_arch is None:
            net_arch = self.default_net_arch.get(features_extractor_class, [64, 64])
        optimizer_kwargs = adam_arguments(optimizer_class, optimizer_kwargs, self.adam_eps)
        self.net_kwargs = net_kwargs  # first, as DQNPolicy's constructor builds the networks
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch,
            activation_fn,
            features_extractor_class,
            features_extractor_kwargs,
            normalize_images,
            optimizer_class,
            optimizer_kwargs,
        )

    def further_optimizers(self) -> dict[str, th.optim.Optimizer]:
        """
        Optimizers of the further losses of :class:`~sb3_distrl.common.loss.Loss`. Subclasses may override it.

        :return: by the names that these losses have, such as "fraction_optimizer". They become attributes of the policy, and
            are saved with it. Their parameters are left to them; learning-rate schedules and clipping do not apply
        """
        return {}

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        further = self.further_optimizers()
        theirs = {parameter for each in further.values() for group in each.param_groups for parameter in group["params"]}
        if theirs:
            own = [parameter for parameter in self.q_net.parameters() if parameter not in theirs]
            self.optimizer = self.optimizer_class(own, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        vars(self).update(further)

    def make_q_net(self) -> ValueNetwork:  # type: ignore[override]
        net_args = self._update_features_extractor(self.net_args, features_extractor=None)
        return self.network_class(**net_args, **self.net_kwargs).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.net_kwargs}
