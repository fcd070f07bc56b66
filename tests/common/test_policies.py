"""What users give to policies is what they get: optimizers, networks and files."""

from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.torch_layers import NatureCNN

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.policies import ValueNetwork
from sb3_distrl.networks import NatureConv
from tests.common.envs import CountingEnv, vec_env
from tests.common.settings import SMALL, SMALL_NETS, Setting, make

# The optimizer


def group(model: Any) -> dict[str, Any]:
    return model.policy.optimizer.param_groups[0]


class OwnAdam(th.optim.Adam):
    """Somebody's, which does not pass on all of Adam's arguments."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)


@pytest.mark.parametrize(("algorithm", "eps"), [(Rainbow, 1.5e-4), (IQN, 0.01 / 32), (QRDQN, 0.01 / 8)])
def test_what_is_given_to_the_optimizer_is_added_to_the_papers_eps(algorithm: type[ValueAlgorithm], eps: float) -> None:
    def made(**policy_kwargs: Any) -> dict[str, Any]:
        return group(make(algorithm, policy_kwargs=policy_kwargs))

    decayed = made(optimizer_kwargs=dict(weight_decay=0.1))
    assert (decayed["eps"], decayed["weight_decay"], decayed["fused"]) == (eps, 0.1, True)
    assert made(optimizer_kwargs=dict(eps=1e-3, weight_decay=0.1))["eps"] == 1e-3
    assert made(optimizer_kwargs={})["eps"] == made()["eps"] == eps
    each = made(optimizer_kwargs=dict(foreach=True))
    assert (each["eps"], each["foreach"], each["fused"]) == (eps, True, None)
    assert made(optimizer_class=th.optim.Adam)["eps"] == eps
    adam_w = made(optimizer_class=th.optim.AdamW, optimizer_kwargs=dict(weight_decay=0.2))
    assert (adam_w["eps"], adam_w["weight_decay"]) == (eps, 0.2)
    assert made(optimizer_class=th.optim.AdamW, optimizer_kwargs=dict(eps=1e-8))["eps"] == 1e-8
    assert made(optimizer_class=OwnAdam)["eps"] == 1e-8, "it takes no eps"
    assert made(optimizer_class=th.optim.RMSprop)["eps"] == 1e-8, "that eps is another one"


@pytest.mark.parametrize("algorithm", [Rainbow, IQN, QRDQN])
def test_arguments_of_policies_may_be_given_again(algorithm: type[ValueAlgorithm], tmp_path: Path) -> None:
    given: dict[str, Any] = dict(
        SMALL_NETS[algorithm],
        normalize_images=False,
        features_extractor_class=NatureCNN,
        features_extractor_kwargs=dict(features_dim=12),
        optimizer_kwargs=dict(weight_decay=0.1),
    )
    before = {**given, "features_extractor_kwargs": dict(features_dim=12), "optimizer_kwargs": dict(weight_decay=0.1)}
    model = make(algorithm, vec_env("image"), kind="image", policy_kwargs=given)
    assert given == before, "what was given is not changed"
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", policy_kwargs={**given})
    assert loaded.policy_kwargs == given and group(loaded) == {**group(model), "params": group(loaded)["params"]}
    with pytest.raises(ValueError, match="policy kwargs do not equal"):
        algorithm.load(tmp_path / "model", policy_kwargs=dict(given, net_arch=[3]))


@pytest.mark.parametrize("algorithm", [Rainbow, IQN, QRDQN])
def test_no_arguments_of_policies_may_be_given_again(algorithm: type[ValueAlgorithm], tmp_path: Path) -> None:
    settings = {**SMALL, "policy_kwargs": {}}
    algorithm("MlpPolicy", vec_env(), **settings).save(tmp_path / "model")
    assert algorithm.load(tmp_path / "model", policy_kwargs={}).policy_kwargs == {}


# Networks


def layers_of(network: th.nn.Module) -> list[tuple[int, int]]:
    return [(each.in_features, each.out_features) for each in network.modules() if isinstance(each, th.nn.Linear)]


@pytest.mark.parametrize(("net_arch", "expected"), [(None, [(64, 12), (12, 3)]), ([5], [(64, 12), (12, 5), (5, 3)])])
def test_features_dim_is_the_size_of_the_layer_on_the_convolutions(
    net_arch: list[int] | None, expected: list[tuple[int, int]], tmp_path: Path
) -> None:
    """SB3's NatureCNN has that layer itself; the function is the same."""
    kwargs: dict[str, Any] = dict(features_extractor_kwargs=dict(features_dim=12))
    if net_arch is not None:
        kwargs["net_arch"] = net_arch
    off = dict(dueling=False, noisy=False, distributional=False)
    model = Rainbow("CnnPolicy", CountingEnv("image"), policy_kwargs={**kwargs, **off}, **SMALL)
    dqn = DQN("CnnPolicy", CountingEnv("image"), policy_kwargs=kwargs, **SMALL)
    assert layers_of(model.q_net) == layers_of(dqn.q_net) == expected
    for one, other in zip(model.q_net.parameters(), dqn.q_net.parameters(), strict=True):
        one.data.copy_(other.data)
    obs = th.randint(0, 256, (3, 1, 36, 36), dtype=th.uint8)
    assert th.equal(model.q_net(obs), dqn.q_net(obs))
    model.learn(40)
    model.save(tmp_path / "model")
    loaded = Rainbow.load(tmp_path / "model")
    assert layers_of(loaded.q_net) == expected
    model.policy.save(tmp_path / "policy")
    assert layers_of(type(model.policy).load(tmp_path / "policy").q_net) == expected


@pytest.mark.parametrize("algorithm", [Rainbow, IQN, QRDQN])
def test_features_dim(algorithm: type[ValueAlgorithm]) -> None:
    kwargs: dict[str, Any] = dict(features_extractor_kwargs=dict(features_dim=12.0))
    model = algorithm("CnnPolicy", vec_env("image"), policy_kwargs=kwargs, **SMALL)
    model.learn(30)
    assert (64, 12) in layers_of(model.q_net) and not any(512 in layer for layer in layers_of(model.q_net))
    if algorithm is not QRDQN:
        assert isinstance(model.q_net.features_extractor, NatureConv)
    dicts = algorithm(
        "MultiInputPolicy",
        vec_env("dict"),
        policy_kwargs=dict(features_extractor_kwargs=dict(cnn_output_dim=12)),
        **SMALL,
    )
    dicts.learn(30)
    assert (64, 12) in layers_of(dicts.q_net)


NETWORKS = {
    "Rainbow": Setting(Rainbow, {}, dict(v_min=-2.0, v_max=5.0, noisy_std=0.3)),
    "plain Rainbow": Setting(Rainbow, {}, dict(distributional=False, dueling=False, noisy=False, net_arch=[8, 7])),
    "IQN": Setting(IQN, {}, dict(dueling=True, noisy=True, activation_fn=th.nn.Tanh)),
    "QRDQN": Setting(QRDQN, {}, {}),
}


@pytest.mark.parametrize("kind", ["box", "image", "dict"])
@pytest.mark.parametrize("name", NETWORKS)
def test_network_alone(name: str, kind: str, tmp_path: Path) -> None:
    model = make(NETWORKS[name], vec_env(kind), kind=kind)
    network: Any = model.q_net
    network.save(tmp_path / "network")
    loaded: Any = type(network).load(tmp_path / "network", device="cpu")
    assert type(loaded) is type(network)
    theirs, ours = loaded._get_constructor_parameters(), network._get_constructor_parameters()
    for each in (theirs, ours):
        del each["features_extractor"]
    assert theirs == ours
    obs, _ = model.policy.obs_to_tensor(model.env.reset())
    if isinstance(network, ValueNetwork):
        assert th.equal(loaded(obs), network(obs))
        assert str(loaded) == str(network)
        assert all(th.equal(one, other) for one, other in zip(loaded.buffers(), network.buffers(), strict=True))
    else:
        assert th.equal(loaded(obs), network(obs))
