"""
Gradient steps of Rainbow without noisy nets, dueling and double Q-learning, beside those of Dopamine's Rainbow, which has the
same components (dopamine/jax/agents/rainbow): same weights at first, same batches of Breakout, same importance weights.

Dopamine's last release does not import with the newest of what it asks for. An environment of its own that does::

    pip install --no-deps dopamine-rl==4.1.2 baselines==0.1.5 gym==0.25.2 gym-notices
    pip install ".[atari,zoo]" "jax[cpu]==0.4.34" flax==0.10.0 optax==0.2.3 orbax-checkpoint==0.7.0 chex==0.1.87 \\
        tensorflow-cpu==2.18.0 tf-keras==2.18.0 tensorflow-probability==0.25.0 gin-config python-snappy pandas
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from benchmark.suite import Suite, respelled
from dopamine.jax.agents.dqn.dqn_agent import create_optimizer
from dopamine.jax.agents.rainbow import rainbow_agent
from dopamine.jax.networks import RainbowNetwork
from rl_zoo3.utils import get_callback_list, get_wrapper_class
from settings import machine, versions, write_report
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage

from sb3_distrl import Rainbow
from sb3_distrl.buffers import PrioritizedReplayBuffer, PrioritizedReplayBufferSamples

ALGO, ENV_ID = "Rainbow without noisy, dueling, double", "ALE/Breakout-v5"
NOT_THE_MODELS = {"n_timesteps", "env_kwargs", "env_wrapper", "frame_stack", "callback"}
Params = dict[str, dict[str, dict[str, np.ndarray]]]


def make_model(seed: int, steps: int) -> Rainbow:
    """
    :param seed: of environment, weights and batches
    :param steps: random ones, to fill replay
    :return: with the settings of the suite ``atari1m``, before its first gradient step
    """
    settings = respelled(Suite.named("atari1m").settings(ALGO, ENV_ID))
    wrapper = get_wrapper_class(settings)
    env = make_vec_env(ENV_ID, seed=seed, env_kwargs=settings["env_kwargs"], wrapper_class=wrapper)
    of_model = {name: value for name, value in settings.items() if name not in NOT_THE_MODELS}
    of_model.update(buffer_size=steps, learning_starts=steps)
    model = Rainbow(env=VecTransposeImage(VecFrameStack(env, settings["frame_stack"])), seed=seed, device="cpu", **of_model)
    model.learn(steps, callback=get_callback_list(settings))
    return model


def dopamines(model: Rainbow) -> Params:
    """
    :param model: whose online network
    :return: its weights in the shapes of Dopamine's, whose images have their channels last
    """
    tensors = [parameter.detach().numpy().copy() for parameter in model.q_net.parameters()]
    layers = [
        dict(kernel=weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T, bias=bias)
        for weight, bias in zip(tensors[::2], tensors[1::2], strict=True)
    ]
    hidden = layers[3]["kernel"]  # of flattened images
    layers[3]["kernel"] = hidden.reshape(64, 11, 11, -1).transpose(1, 2, 0, 3).reshape(hidden.shape)
    return {"params": dict(zip(("Conv_0", "Conv_1", "Conv_2", "Dense_0", "Dense_1"), layers, strict=True))}


def largest(a: Params, b: Params) -> float:
    """:return: the largest absolute difference of two networks' weights"""
    return max(jax.tree_util.tree_leaves(jax.tree_util.tree_map(lambda x, y: float(np.abs(x - y).max()), a, b)))


def sample(model: Rainbow) -> PrioritizedReplayBufferSamples:
    """
    :param model: from whose replay
    :return: transitions of ``n_steps``, or up to the end of a game; the newest, which have fewer, are not in Dopamine's replay
    """
    assert isinstance(model.replay_buffer, PrioritizedReplayBuffer)
    while True:
        batch = model.replay_buffer.sample(model.batch_size, beta=model.beta)
        if np.isclose(batch.discounts[batch.dones == 0], model.gamma**model.n_steps).all():
            return batch


def compare(seed: int, fill: int, steps: int) -> list[str]:
    """
    :param seed: of all
    :param fill: environment steps in replay
    :param steps: of the gradient
    :return: a line of the table for each
    """
    model = make_model(seed, fill)
    model.policy.set_training_mode(True)
    options = model.policy_kwargs
    network = functools.partial(RainbowNetwork, num_atoms=options["n_atoms"])(num_actions=4)
    optimizer = create_optimizer("adam", model.learning_rate, eps=options["optimizer_kwargs"]["eps"])
    support = jnp.linspace(options["v_min"], options["v_max"], options["n_atoms"])
    target = theirs = dopamines(model)
    state, lines = optimizer.init(theirs), []
    for step in range(1, steps + 1):
        raw = sample(model)
        batch = model._preprocessed(raw)
        losses = model._evaluate(batch).losses.detach().numpy()
        model._gradient_step(batch)
        obs, next_obs = (np.moveaxis(np.asarray(images), 1, -1) for images in (raw.observations, raw.next_observations))
        actions, rewards, dones, weights = (x.numpy().squeeze(1) for x in (raw.actions, raw.rewards, raw.dones, raw.weights))
        transitions = (obs, actions, next_obs, rewards, dones, weights)
        state, theirs, their_losses, _ = rainbow_agent.train(
            network, theirs, target, optimizer, state, *transitions, support, model.gamma**model.n_steps
        )
        ours, difference = dopamines(model), np.abs(np.asarray(their_losses) - losses).max()
        lines.append(f"| {seed} | {step} | {difference:.1e} | {largest(ours, target):.1e} | {largest(ours, theirs):.1e} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=10, help="of the gradient")
    parser.add_argument("--fill", type=int, default=5000, help="environment steps in replay")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file")
    args = parser.parse_args()
    lines = [line for seed in args.seeds for line in compare(seed, args.fill, args.steps)]
    report = [
        "# Gradient steps of Dopamine's Rainbow and of ours",
        f"{machine()}; {versions('dopamine-rl', 'jax', 'jaxlib', 'flax', 'optax', 'ale-py').partition(', ')[2]}",
        "Written by `scripts/dopamine_step.py`, whose docstring says what is compared. Each number is the largest over the "
        "batch, or over all weights of the network; losses are near 4. The target networks keep the first weights.",
        "| seed | gradient step | difference of losses | weights moved by | difference of weights |\n|---|---|---|---|---|\n"
        + "\n".join(lines),
    ]
    write_report("\n\n".join(report) + "\n", args.output)


if __name__ == "__main__":
    main()
