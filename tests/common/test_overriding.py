"""What users override in a network is used in acting and in learning."""

from typing import Any

import pytest
import torch as th

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.gradient_steps import evaluate, preprocess
from sb3_distrl.iqn.policies import IQNNetwork
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
