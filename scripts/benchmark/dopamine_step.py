"""
Gradient steps of the contenders of the suite ``atari1m`` compared with those of their counterparts in Dopamine
(dopamine/jax/agents): same initial weights, same batches of Breakout, same importance weights, and for IQN the same
fractions.

Dopamine's last release cannot be imported with the latest versions of its requirements. An environment in which it can::

    pip install --no-deps dopamine-rl==4.1.2 baselines==0.1.5 gym==0.25.2 gym-notices
    pip install ".[atari,zoo]" "jax[cpu]==0.4.34" flax==0.10.0 optax==0.2.3 orbax-checkpoint==0.7.0 chex==0.1.87 \\
        tensorflow-cpu==2.18.0 tf-keras==2.18.0 tensorflow-probability==0.25.0 gin-config python-snappy pandas
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch as th
from dopamine.jax import networks
from dopamine.jax.agents.dqn import dqn_agent
from dopamine.jax.agents.implicit_quantile import implicit_quantile_agent
from dopamine.jax.agents.quantile import quantile_agent
from dopamine.jax.agents.rainbow import rainbow_agent
from rl_zoo3.utils import ALGOS, get_callback_list, get_wrapper_class
from shared import machine, versions, write_report
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage
from torch import nn
from tqdm import tqdm

from benchmark.suite import Suite, respelled
from sb3_distrl import IQN, QRDQN
from sb3_distrl.buffers import PrioritizedReplayBuffer, PrioritizedReplayBufferSamples
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.gradient_steps import evaluate, preprocess

ENV_ID, ACTIONS = "ALE/Breakout-v5", 4
NOT_THE_MODELS = {"n_timesteps", "env_kwargs", "env_wrapper", "frame_stack", "callback"}
Params = dict[str, dict[str, dict[str, np.ndarray]]]


class Step(NamedTuple):
    """
    What a gradient step of Dopamine takes.

    :param trained: online weights, target weights, optimizer and its state
    :param transitions: observations, actions, next observations, rewards, and whether a game ended
    :param weights: importance weights
    :param discount: of the value of the next observation
    :param key: of IQN's fractions
    """

    trained: tuple
    transitions: list[np.ndarray]
    weights: np.ndarray
    discount: float
    key: jax.Array


def qr_dqn(model: ValueAlgorithm, step: Step) -> tuple:
    n_quantiles = model.policy_kwargs["n_quantiles"]
    network = networks.QuantileNetwork(ACTIONS, n_quantiles)
    return quantile_agent.train(network, *step.trained, *step.transitions, 1.0, n_quantiles, step.discount)[:3]


def iqn(model: ValueAlgorithm, step: Step) -> tuple:
    assert isinstance(model, IQN)
    n_cos = len(step.trained[0]["params"]["Dense_0"]["kernel"])
    network = networks.ImplicitQuantileNetwork(ACTIONS, n_cos)
    rest = (*numbers_of_fractions(model), step.discount, model.double_q, model.kappa, step.key)
    return implicit_quantile_agent.train(network, *step.trained, *step.transitions, *rest)[1:]


def rainbow(model: ValueAlgorithm, step: Step) -> tuple:
    n_atoms, v_min, v_max = (model.policy_kwargs[name] for name in ("n_atoms", "v_min", "v_max"))
    network, support = networks.RainbowNetwork(ACTIONS, n_atoms), jnp.linspace(v_min, v_max, n_atoms)
    return rainbow_agent.train(network, *step.trained, *step.transitions, step.weights, support, step.discount)[:3]


def dqn(model: ValueAlgorithm, step: Step, loss: str) -> tuple:
    return dqn_agent.train(networks.NatureDQNNetwork(ACTIONS), *step.trained, *step.transitions, step.discount, loss)


class Peer(NamedTuple):
    """
    :param algo: contender of the suite ``atari1m``
    :param train: Dopamine's gradient step; returns state of the optimizer, weights, and losses or their mean
    :param scale: Dopamine's loss, where ours is 1
    """

    algo: str
    train: Callable[[ValueAlgorithm, Step], tuple]
    scale: float = 1.0


PEERS = {
    "QR-DQN": Peer("QR-DQN (n=3, prioritized)", qr_dqn),
    "IQN": Peer("IQN", iqn),
    "Rainbow": Peer("Rainbow without noisy, dueling, double", rainbow),
    "DQN": Peer("DQN", partial(dqn, loss="huber")),
    "DQN, squared error": Peer("DQN", partial(dqn, loss="mse"), scale=2.0),  # up to errors of 1
}


def make_model(algo: str, seed: int, steps: int) -> ValueAlgorithm:
    """
    :param algo: contender of the suite ``atari1m``
    :param seed: of environment, weights and batches
    :param steps: random ones, to fill replay
    :return: with the settings of the suite, before its first gradient step
    """
    suite = Suite.named("atari1m")
    settings = respelled(suite.settings(algo, ENV_ID))
    wrapper = get_wrapper_class(settings)
    env = make_vec_env(ENV_ID, seed=seed, env_kwargs=settings["env_kwargs"], wrapper_class=wrapper)
    env = VecTransposeImage(VecFrameStack(env, settings["frame_stack"]))
    of_model = {name: value for name, value in settings.items() if name not in NOT_THE_MODELS}
    of_model.update(buffer_size=steps, learning_starts=steps)
    model = ALGOS[suite.contenders[algo]["algo"]](env=env, seed=seed, device="cpu", **of_model)
    assert isinstance(model, ValueAlgorithm)
    model.gradient_steps = 0  # steps are only collected
    return model.learn(steps, callback=get_callback_list(settings))


def channels_last(weights: np.ndarray) -> np.ndarray:
    """
    :param weights: of flattened images, of 64 channels of 11x11 pixels each, along the first axis
    :return: the same with the channels of each pixel side by side
    """
    return weights.reshape(64, 11 * 11, -1).swapaxes(0, 1).reshape(weights.shape)


def dopamines(model: ValueAlgorithm) -> Params:
    """
    :param model: whose online network
    :return: its weights as Dopamine has them: inputs along the first axis, channels along the last
    """

    def layers(kind: type[nn.Linear] | type[nn.Conv2d], axes: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
        found = [layer.state_dict() for layer in model.q_net.modules() if isinstance(layer, kind)]
        return [dict(kernel=x["weight"].numpy().transpose(axes).copy(), bias=x["bias"].numpy().copy()) for x in found]

    convolutions = layers(nn.Conv2d, (2, 3, 1, 0))
    hidden, output, *embedding = layers(nn.Linear, (1, 0))
    hidden["kernel"] = channels_last(hidden["kernel"])
    if isinstance(model, QRDQN):  # whose outputs are quantiles of actions; Dopamine's are actions of quantiles
        output = {name: x.reshape(*x.shape[:-1], -1, ACTIONS).swapaxes(-1, -2).reshape(x.shape) for name, x in output.items()}
    embedding = [{name: channels_last(x.T).T for name, x in layer.items()} for layer in embedding]
    named = {f"Conv_{i}": layer for i, layer in enumerate(convolutions)}
    named.update({f"Dense_{i}": layer for i, layer in enumerate([*embedding, hidden, output])})
    return {"params": named}


def largest(a: Params, b: Params) -> float:
    """:return: the largest absolute difference of two networks' weights"""
    return max(jax.tree_util.tree_leaves(jax.tree_util.tree_map(lambda x, y: float(np.abs(x - y).max()), a, b)))


def numbers_of_fractions(model: IQN) -> tuple[int, int, int]:
    """:return: N, N' and K of the paper"""
    return model.policy.n_quantiles, model.policy.n_target_quantiles, model.q_net.n_eval_quantiles


def fractions(model: ValueAlgorithm, key: jax.Array) -> list[th.Tensor]:
    """
    :param model: which may be an IQN
    :param key: of Dopamine's gradient step
    :return: the fractions that it draws, in the order in which IQN does: to choose actions, of the targets, of the loss
    """
    if not isinstance(model, IQN):
        return []

    def drawn(keys: jax.Array, number: int) -> th.Tensor:
        return th.tensor(np.array(jax.vmap(lambda key: jax.random.uniform(key, (number,)))(keys)))

    n, n_target, n_eval = numbers_of_fractions(model)
    key, key_of_targets = jax.random.split(key)
    _, key_of_loss = jax.random.split(key)
    of_targets = jax.vmap(lambda key: jax.random.split(key, 3))(jax.random.split(key_of_targets, model.batch_size))
    of_loss = jax.random.split(key_of_loss, model.batch_size)
    return [drawn(of_targets[:, 1], n_eval), drawn(of_targets[:, 2], n_target), drawn(of_loss, n)]


def sample(model: ValueAlgorithm) -> PrioritizedReplayBufferSamples:
    """
    :param model: from whose replay
    :return: transitions of ``n_steps``, or up to the end of a game; the newest, which have fewer, are not in Dopamine's replay
    """
    assert isinstance(model.replay_buffer, PrioritizedReplayBuffer)
    while True:
        batch = model.replay_buffer.sample(model.batch_size, beta=model.beta if model.prioritized else 0.0)
        if np.isclose(batch.discounts[batch.dones == 0], model.gamma**model.n_steps).all():
            return batch


def compare(name: str, seed: int, fill: int, steps: int) -> str:
    """
    :param name: one of PEERS
    :param seed: of all
    :param fill: environment steps in replay
    :param steps: of the gradient
    :return: a line of the table
    """
    peer = PEERS[name]
    model = make_model(peer.algo, seed, fill)
    model.policy.set_training_mode(True)
    eps = model.policy_kwargs["optimizer_kwargs"]["eps"]
    optimizer = dqn_agent.create_optimizer("adam", model.learning_rate, eps=peer.scale * eps)
    start = theirs = dopamines(model)
    state, key = optimizer.init(theirs), jax.random.key(seed)
    sizes, of_losses, of_weights = [], [], []
    for _ in range(steps):
        raw = sample(model)
        batch, (key, key_of_step) = preprocess(model.q_net, raw), jax.random.split(key)
        with mock.patch.object(th, "rand", side_effect=2 * fractions(model, key_of_step)):
            losses = evaluate(model, batch).losses.detach().numpy()
            model.gradient_step(batch)
        obs, next_obs = (np.moveaxis(np.asarray(images), 1, -1) for images in (raw.observations, raw.next_observations))
        actions, rewards, dones, weights = (x.numpy().squeeze(1) for x in (raw.actions, raw.rewards, raw.dones, raw.weights))
        transitions, discount = [obs, actions, next_obs, rewards, dones], model.gamma**model.n_steps
        step = Step((theirs, start, optimizer, state), transitions, weights, discount, key_of_step)
        state, theirs, their_losses = peer.train(model, step)
        ours = peer.scale * (losses if np.ndim(their_losses) else losses.mean())
        sizes.append(np.mean(their_losses))
        of_losses.append(np.abs(ours - np.asarray(their_losses)).max())
        of_weights.append(largest(dopamines(model), theirs))
    moved = largest(dopamines(model), start)
    return f"| {name} | {seed} | {np.mean(sizes):.2g} | {max(of_losses):.1e} | {moved:.1e} | {max(of_weights):.1e} |"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python scripts/benchmark dopamine_step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=10, help="of the gradient")
    parser.add_argument("--fill", type=int, default=5000, help="environment steps in replay")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file")
    args = parser.parse_args(arguments)
    lines = [compare(name, seed, args.fill, args.steps) for name in tqdm(args.peers) for seed in args.seeds]
    report = [
        "# Gradient steps of Dopamine's agents and of ours",
        f"{machine()}; {versions('dopamine-rl', 'jax', 'jaxlib', 'flax', 'optax', 'ale-py').partition(', ')[2]}",
        f"Written by `scripts/benchmark/dopamine_step.py`, whose docstring says what is compared, over {args.steps} gradient "
        "steps. "
        "Differences are the largest of a transition's loss (of the mean over the batch in IQN and DQN, whose steps give no "
        "more) and of a weight of the network in any of the steps. Target networks keep the first weights. DQN has Huber's "
        "loss, an option of Dopamine's DQN, whose default is the squared error. That is twice Huber's up to errors of 1; "
        "beyond them, it is larger, and steps differ from the first such error on.",
        "| Dopamine's | seed | mean loss | difference of losses | weights moved by | difference of weights |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(lines),
    ]
    write_report("\n\n".join(report) + "\n", args.output)
