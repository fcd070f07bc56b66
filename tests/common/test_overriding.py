"""What users override in a network is used in acting and in learning."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch as th

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.gradient_steps import evaluate, preprocess
from sb3_distrl.iqn.policies import IQNNetwork
from sb3_distrl.networks import Noise
from sb3_distrl.qrdqn import CnnPolicy, MlpPolicy
from sb3_distrl.qrdqn.policies import QRDQNNetwork
from sb3_distrl.rainbow.policies import RainbowNetwork
from tests.common.envs import POLICIES, vec_env
from tests.common.settings import SMALL, SMALL_NETS


def network_of(base: type, method: str) -> type:
    """:return: a subclass whose method counts its calls and returns zeros in place of what it returned"""

    def overridden(self: Any, *args: Any, **kwargs: Any) -> Any:
        counts[self.training] += 1
        return getattr(super(network, self), method)(*args, **kwargs) * 0

    counts = {False: 0, True: 0}
    network = type(f"Own{base.__name__}", (base,), {method: overridden, "counts": counts})
    return network


def policy_of(algorithm: type[ValueAlgorithm], network: type, policy: str = "MlpPolicy") -> type:
    return type("OwnPolicy", (algorithm.policy_aliases[policy],), dict(network_class=network))


OVERRIDDEN = [
    (Rainbow, "preprocess"),
    (Rainbow, "encode"),
    (Rainbow, "outputs"),
    (IQN, "preprocess"),
    (IQN, "encode"),
    (IQN, "quantiles"),
    (QRDQN, "preprocess"),
    (QRDQN, "encode"),
    (QRDQN, "outputs"),
]
BASES: dict[type[ValueAlgorithm], type] = {
    Rainbow: RainbowNetwork,
    IQN: IQNNetwork,
    QRDQN: QRDQNNetwork,
}


@pytest.mark.parametrize("kind", ["box", "image"])
@pytest.mark.parametrize(("algorithm", "method"), OVERRIDDEN)
def test_what_is_overridden_is_used_in_acting_and_in_learning(algorithm: type[ValueAlgorithm], method: str, kind: str) -> None:
    network = network_of(BASES[algorithm], method)
    policy_kwargs = dict(SMALL_NETS[algorithm])
    if algorithm is Rainbow:
        policy_kwargs["noisy"] = False
    policy = policy_of(algorithm, network, POLICIES.get(kind, "MlpPolicy"))
    settings = {**SMALL, "learning_starts": 8, "train_freq": 8, "exploration_final_eps": 0.0}
    model = algorithm(policy, vec_env(kind), exploration_initial_eps=0.0, policy_kwargs=policy_kwargs, **settings)
    model.learn(8)
    network.counts.update({False: 0, True: 0})
    model.policy.set_training_mode(True)
    batch = model.sample(4)
    shuffled = batch._replace(observations=batch.observations.flip(0), next_observations=batch.next_observations.flip(0))
    q_values = []
    for each in (batch, shuffled):
        th.manual_seed(0)  # IQN draws fractions
        q_values.append(evaluate(model, each).q_values)
    assert network.counts[True] > 0, "it takes part in learning"
    assert th.equal(*q_values), "and makes all observations alike there"
    obs = model.env.reset()
    model.policy.set_training_mode(False)
    network.counts.update({False: 0, True: 0})
    model.predict(obs, deterministic=True)
    assert network.counts[False] > 0, "it takes part in acting"


class Halved(RainbowNetwork):
    """Another normalisation, which wants the layout that it was written for."""

    def preprocess(self, obs: Any) -> Any:
        return super().preprocess(obs).view(len(obs), 1, 36 * 36).view(len(obs), 1, 36, 36) / 2


def test_learning_sees_what_acting_sees() -> None:
    policy = policy_of(Rainbow, Halved, "CnnPolicy")
    model = Rainbow(policy, vec_env("image"), policy_kwargs=dict(SMALL_NETS[Rainbow]), **SMALL)
    model.learn(40)
    raw = model.replay_buffer.sample(4)
    assert th.equal(preprocess(model.q_net, raw).observations, raw.observations.float() / 255 / 2)
    assert th.equal(preprocess(model.q_net, raw).next_observations, model.q_net.preprocess(raw.next_observations))


@pytest.mark.parametrize("algorithm", [Rainbow, IQN, QRDQN])
def test_a_forward_that_nothing_calls_is_refused(algorithm: type[ValueAlgorithm]) -> None:
    policy = policy_of(algorithm, network_of(BASES[algorithm], "forward"))
    with pytest.raises(ValueError, match=r"overrides forward, but neither acting nor learning calls it: override encode"):
        algorithm(policy, vec_env(), policy_kwargs=dict(SMALL_NETS[algorithm]), **SMALL)


def test_a_loss_of_a_former_name_is_refused() -> None:
    class Mine(IQN):
        def _loss(self, batch: Any, bootstrap: th.Tensor) -> Any:
            raise NotImplementedError

    with pytest.raises(ValueError, match="Mine overrides _loss, which nothing calls: the method is called loss"):
        Mine("MlpPolicy", vec_env(), **SMALL)


class Further(MlpPolicy):
    def further_optimizers(self) -> dict[str, th.optim.Optimizer]:
        return {"head_optimizer": th.optim.SGD(self.q_net.head.parameters(), lr=0.1)}


def with_loss(**changes: Any) -> type[QRDQN]:
    """:return: an algorithm whose loss is changed"""

    class Changed(QRDQN):
        policy_aliases: ClassVar = {"MlpPolicy": Further}

        def loss(self, batch: Any, bootstrap: th.Tensor) -> Any:
            loss = super().loss(batch, bootstrap)
            return loss._replace(**{name: change(self, loss) for name, change in changes.items()})

    return Changed


@pytest.mark.parametrize(
    ("name", "change"),
    [("losses", lambda _, loss: loss.losses[:, None]), ("priorities", lambda _, loss: loss.losses.detach().mean())],
)
def test_a_loss_of_another_shape_is_refused(name: str, change: Any) -> None:
    """It would be broadcast against the weights."""
    model = with_loss(**{name: change})("MlpPolicy", vec_env(), prioritized=True, **SMALL)
    with pytest.raises(ValueError, match=rf"{name} of the loss of Changed has shape .*: give one for each of the 8 samples"):
        model.learn(60)


def test_further_losses() -> None:
    extra = {"head_optimizer": lambda self: sum((p**2).sum() for p in self.q_net.head.parameters())}
    model = with_loss(extra=lambda self, _: {name: loss(self) for name, loss in extra.items()})(
        "MlpPolicy", vec_env(), **SMALL
    )
    before = float(extra["head_optimizer"](model))
    model.learn(60)
    assert float(extra["head_optimizer"](model)) < 0.9 * before

    model = with_loss(extra=lambda self, _: {"nothing": extra["head_optimizer"](self)})("MlpPolicy", vec_env(), **SMALL)
    with pytest.raises(ValueError, match="extra='nothing' of the loss is not an optimizer of the policy: return it from"):
        model.learn(60)

    # A finite loss whose gradient is not
    def steep(self: Any, _: Any) -> Any:
        return {"head_optimizer": sum((p - p.detach()).abs().sqrt().sum() for p in self.q_net.head.parameters())}

    model = with_loss(extra=steep)("MlpPolicy", vec_env(), **SMALL)
    with pytest.raises(ValueError, match="grad_norm of head_optimizer=nan is not finite in gradient step 1"):
        model.learn(60)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


def test_what_chooses_actions() -> None:
    """In acting and exploring; overridden where nothing calls it, it is refused."""

    class Masked(QRDQN):
        @staticmethod
        def select_actions(values: th.Tensor) -> th.Tensor:
            return values[:, ::2].argmax(dim=1) * 2

        def random_actions(self, n: int) -> Any:
            return np.random.choice([0, 2], n)

    model = Masked("MlpPolicy", vec_env(n_envs=2), exploration_final_eps=0.5, **SMALL).learn(200)
    assert set(np.unique(model.replay_buffer.actions[:100])) == {0, 2}
    assert set(np.unique(model.greedy_policy()(th.randn(200, 3))[0])) <= {0, 2}

    class Bound(QRDQN):
        def select_actions(self, values: th.Tensor) -> th.Tensor:  # type: ignore[override]
            return values.argmax(dim=1)

    with pytest.raises(ValueError, match="select_actions of Bound must be a static method"):
        Bound("MlpPolicy", vec_env(), **SMALL)

    class Fixed(MlpPolicy):
        def _predict(self, obs: Any, deterministic: bool = True) -> th.Tensor:
            return th.zeros(len(obs), dtype=th.int64)

    with pytest.raises(ValueError, match="policy=Fixed overrides _predict, which the algorithm does not call"):
        QRDQN(Fixed, vec_env(), **SMALL)


def test_outputs_of_ones_own_are_float32_in_the_loss() -> None:
    class Plain(QRDQNNetwork):
        def outputs(self, inputs: Any, noise: Any = Noise.OFF) -> th.Tensor:
            return super().outputs(inputs, noise).to(th.bfloat16)

    model = QRDQN(policy_of(QRDQN, Plain), vec_env(), precision="bf16", **SMALL).learn(40)
    assert evaluate(model, model.sample(4)).losses.dtype == th.float32


def test_any_policy_of_the_aliases_will_do() -> None:
    class Image(CnnPolicy):
        pass

    class Mine(QRDQN):
        policy_aliases: ClassVar = {"CnnPolicy": Image}

    assert type(Mine("CnnPolicy", vec_env("image"), **SMALL).policy) is Image
    with pytest.raises(ValueError, match="n_outputs=3 follows from other policy_kwargs"):
        QRDQN("MlpPolicy", vec_env(), policy_kwargs=dict(n_outputs=3), **SMALL)
