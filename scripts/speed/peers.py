"""
The contenders of ``gradient_steps.py`` from other libraries: PFRL, Tianshou and CleanRL, built as their own Atari examples
build them, with the settings that all contenders of a family share.
"""

import ast
import collections
import importlib
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from replay.stream import N_ACTIONS, SHAPE, Step
from torch import nn

from speed.contenders import (
    ADAM,
    ALPHA,
    BETA,
    GAMMA,
    HIDDEN,
    LEARNING_STARTS,
    MAX_GRAD_NORM,
    N_ATOMS,
    N_COS,
    N_EVAL_FRACTIONS,
    N_FRACTIONS,
    N_QUANTILES,
    N_STEPS,
    NOISY_STD,
    SB3DQN,
    TARGET_UPDATE_INTERVAL,
    V_MAX,
    Contender,
    ContribQRDQNContender,
    Settings,
)


def nature_convolutions() -> list[nn.Module]:
    """:return: the layers of the Nature DQN (Mnih et al. 2015), flattened at the end"""
    convolutions = [nn.Conv2d(4, 32, 8, stride=4), nn.Conv2d(32, 64, 4, stride=2), nn.Conv2d(64, 64, 3, stride=1)]
    return [layer for convolution in convolutions for layer in (convolution, nn.ReLU())] + [nn.Flatten()]


class PFRL(Contender):
    """PFRL's agents as in its examples/atari/reproduction, observations as its LazyFrames."""

    name = "PFRL"

    def _make(self, env: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.pfrl = importlib.import_module("pfrl")
            self.lazy_frames = importlib.import_module("pfrl.wrappers.atari_wrappers").LazyFrames
        family, (learning_rate, eps) = self.settings.family, ADAM[self.settings.family]
        buffers, arguments = self.pfrl.replay_buffers, {}
        buffer = buffers.ReplayBuffer(self.settings.buffer)
        if family == "rainbow":
            agent_class = self.pfrl.agents.CategoricalDoubleDQN
            model = self.pfrl.q_functions.DistributionalDuelingDQN(N_ACTIONS, N_ATOMS, -V_MAX, V_MAX)
            self.pfrl.nn.to_factorized_noisy(model, sigma_scale=NOISY_STD)
            buffer = buffers.PrioritizedReplayBuffer(
                self.settings.buffer, ALPHA, BETA, num_steps=N_STEPS, normalize_by_max="batch"
            )
        elif family == "iqn":
            agent_class, iqn = self.pfrl.agents.IQN, self.pfrl.agents.iqn
            model = iqn.ImplicitQuantileQFunction(
                psi=nn.Sequential(*nature_convolutions()),
                phi=nn.Sequential(iqn.CosineBasisLinear(N_COS, 3136), nn.ReLU()),
                f=nn.Sequential(nn.Linear(3136, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, N_ACTIONS)),
            )
            fractions = dict(quantile_thresholds_N=N_FRACTIONS, quantile_thresholds_N_prime=N_FRACTIONS)
            arguments = dict(**fractions, quantile_thresholds_K=N_EVAL_FRACTIONS)
        elif family == "dqn":
            agent_class, heads = self.pfrl.agents.DQN, self.pfrl.q_functions.DiscreteActionValueHead()
            layers = [nn.Linear(3136, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, N_ACTIONS)]
            model = nn.Sequential(*nature_convolutions(), *layers, heads)
        else:
            raise RuntimeError(f"it has no {family}")
        self.agent = agent_class(
            model,
            th.optim.Adam(model.parameters(), learning_rate, eps=eps),
            buffer,
            gamma=GAMMA,
            explorer=self.pfrl.explorers.Greedy(),
            gpu=None if self.settings.device == "cpu" else 0,
            minibatch_size=self.settings.batch,
            replay_start_size=self.settings.batch if env is None else LEARNING_STARTS,
            update_interval=1 if env is None else 4,
            target_update_interval=TARGET_UPDATE_INTERVAL,
            phi=lambda x: np.asarray(x, dtype=np.float32) / 255,
            max_grad_norm=MAX_GRAD_NORM[family],
            **arguments,
        )
        self.env, self.frames = env, collections.deque([np.zeros((1, 84, 84), np.uint8)] * 4, maxlen=4)
        self.obs: Any = None  # of the last step in the environment
        self.watch(buffer, "sample", "replay")
        # Its replay holds lists of transitions; stacking them into tensors is part of sampling in the others
        self.watch(importlib.import_module("pfrl.agents.dqn"), "batch_experiences", "replay")
        if family == "rainbow":
            self.watch(buffer, "update_errors", "priorities")

    def _stack(self, frame: np.ndarray, reset: bool = False) -> Any:
        """:return: the last four frames, each of which is kept once"""
        if reset:
            self.frames.extend([np.zeros((1, 84, 84), np.uint8)] * 4)
        self.frames.append(frame.copy())
        return self.lazy_frames(list(self.frames), stack_axis=0)

    def add(self, step: Step) -> None:
        if self.obs is None:
            self.obs = self._stack(step.obs[0, -1:], reset=True)
        next_obs = self._stack(step.next_obs[0, -1:])
        terminated = bool(step.dones[0] and not step.truncated[0])
        action, reward = int(step.actions[0]), float(step.rewards[0])
        self.agent.replay_buffer.append(self.obs, action, reward, next_obs, is_state_terminal=terminated)
        self.obs = next_obs
        if step.dones[0]:
            self.agent.replay_buffer.stop_current_episode()
            self.obs = None

    def step(self) -> None:
        self.agent.replay_updater.update_if_necessary(1)

    def run(self, n_steps: int) -> None:
        if self.obs is None:
            self.obs = self._stack(self.env.reset(seed=0)[0][-1:], reset=True)
        for _ in range(n_steps):
            obs, reward, terminated, truncated, _ = self.env.step(self.agent.act(self.obs))
            self.obs = self._stack(obs[-1:])
            self.agent.observe(self.obs, reward, terminated, truncated)
            if terminated or truncated:
                self.obs = self._stack(self.env.reset()[0][-1:], reset=True)


class Tianshou(Contender):
    """Tianshou's algorithms as in its examples/atari, one frame of each observation in its replay."""

    name = "Tianshou"

    def _network(self, nets: Any, network: Any) -> Any:
        """:return: the network as the algorithm gets it"""
        return network

    def _make(self, env: Any) -> None:
        algorithms, nets, data = (
            importlib.import_module(f"tianshou.{name}") for name in ("algorithm", "env.atari.atari_network", "data")
        )
        family, (learning_rate, eps) = self.settings.family, ADAM[self.settings.family]
        modelfree = importlib.import_module(f"tianshou.algorithm.modelfree.{'c51' if family == 'rainbow' else family}")
        arguments: dict[str, Any] = {}
        shape: dict[str, Any] = dict(c=SHAPE[0], h=SHAPE[1], w=SHAPE[2], action_shape=[N_ACTIONS])
        space = dict(action_space=spaces.Discrete(N_ACTIONS))
        if family == "rainbow":
            model = self._network(nets, nets.RainbowNet(**shape, num_atoms=N_ATOMS, noisy_std=NOISY_STD))
            policy, algorithm_class = modelfree.C51Policy(model=model, **space), algorithms.RainbowDQN
        elif family == "iqn":
            discrete = importlib.import_module("tianshou.utils.net.discrete")
            model = discrete.ImplicitQuantileNetwork(
                preprocess_net=nets.DQNet(**shape, features_only=True),
                action_shape=[N_ACTIONS],
                hidden_sizes=[HIDDEN],
                num_cosines=N_COS,
            )
            fractions = dict(sample_size=N_EVAL_FRACTIONS, online_sample_size=N_FRACTIONS, target_sample_size=N_FRACTIONS)
            policy, algorithm_class = modelfree.IQNPolicy(model=model, **space, **fractions), algorithms.IQN
        elif family == "qrdqn":
            model = nets.QRDQNet(**shape, num_quantiles=N_QUANTILES)
            policy, algorithm_class = modelfree.QRDQNPolicy(model=model, **space), algorithms.QRDQN
            arguments = dict(num_quantiles=N_QUANTILES)
        else:
            policy, algorithm_class = modelfree.DiscreteQLearningPolicy(model=nets.DQNet(**shape), **space), algorithms.DQN
            arguments = dict(is_double=False, huber_loss_delta=1.0)
        factory = importlib.import_module("tianshou.algorithm.optim").AdamOptimizerFactory(lr=learning_rate, eps=eps)
        steps = N_STEPS if family == "rainbow" else 1
        arguments.update(gamma=GAMMA, n_step_return_horizon=steps, target_update_freq=TARGET_UPDATE_INTERVAL // 4)
        self.algorithm = algorithm_class(policy=policy, optim=factory, **arguments).to(self.settings.device)
        frames = dict(stack_num=SHAPE[0], save_only_last_obs=True, ignore_obs_next=True)
        if family == "rainbow":
            self.buffer = data.PrioritizedVectorReplayBuffer(self.settings.buffer, 1, alpha=ALPHA, beta=BETA, **frames)
        else:
            self.buffer = data.VectorReplayBuffer(self.settings.buffer, 1, **frames)
        self.batch, self.env = data.Batch, env
        self.collector: Any = None
        self.training = importlib.import_module("tianshou.utils.torch_utils").policy_within_training_step
        self.watch(self.buffer, "sample", "replay")
        if family == "rainbow":  # elsewhere the n-step returns need the networks: they are not replay alone
            self.watch(self.algorithm, "_preprocess_batch", "replay")
            self.watch(self.algorithm, "_postprocess_batch", "priorities")

    def add(self, step: Step) -> None:
        terminated = step.dones & ~step.truncated
        values = dict(obs=step.obs, act=step.actions, rew=step.rewards, terminated=terminated, truncated=step.truncated)
        self.buffer.add(self.batch(**values, obs_next=step.next_obs, info=np.array([{}])), buffer_ids=[0])

    def step(self) -> None:
        with self.training(self.algorithm.policy):
            self.algorithm.update(self.buffer, self.settings.batch)

    def run(self, n_steps: int) -> None:
        data, trainer = importlib.import_module("tianshou.data"), importlib.import_module("tianshou.trainer")
        if self.collector is None:
            envs = importlib.import_module("tianshou.env").DummyVectorEnv([lambda: self.env])
            self.collector = data.Collector(
                self.algorithm, envs, self.buffer, exploration_noise=True, raise_on_nan_in_buffer=False
            )  # by default it looks through the whole buffer at each collection
            self.collector.reset()
            self.collector.collect(n_step=LEARNING_STARTS)
            n_steps -= LEARNING_STARTS
        params = trainer.OffPolicyTrainerParams(
            training_collector=self.collector,
            max_epochs=1,
            epoch_num_steps=n_steps,
            collection_step_num_env_steps=4,
            update_step_num_gradient_steps_per_sample=0.25,
            batch_size=self.settings.batch,
            show_progress=False,
            verbose=False,
        )
        self.algorithm.create_trainer(params).run(reset_collectors=False)


class WholeTianshou(Tianshou):
    """With what it leaves out: inputs scaled to 0..1, and noise of its own in the pass that chooses actions."""

    name = "Tianshou, made whole"

    def _network(self, nets: Any, network: Any) -> Any:
        return nets.ScaledObsInputActionReprNet(network)

    def _make(self, env: Any) -> None:
        if self.settings.family != "rainbow":
            raise RuntimeError("only Rainbow has noise")
        super()._make(env)
        target_dist = self.algorithm._target_dist

        def with_fresh_noise(batch: Any) -> th.Tensor:
            result = target_dist(batch)
            self.algorithm._sample_noise(self.algorithm.policy.model)
            return result

        self.algorithm._target_dist = with_fresh_noise


class CleanRL(Contender):
    """The code of CleanRL's rainbow_atari.py: its classes, its set-up and the body of its training branch, unchanged."""

    name = "CleanRL"
    keeps_whole = True

    def _make(self, env: Any) -> None:
        if self.settings.family != "rainbow":
            raise RuntimeError("only its Rainbow is compared")
        if self.settings.cleanrl is None:
            raise ImportError("give the path of its rainbow_atari.py: --cleanrl PATH")
        tree = ast.parse(Path(self.settings.cleanrl).read_text())
        self.names: dict[str, Any] = {"__name__": "cleanrl", "__file__": self.settings.cleanrl}
        for node in tree.body[:-1]:
            module = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
            if module[0] != "tyro" and not str(module[0]).startswith(("torch.utils.tensorboard", "cleanrl_utils")):
                self._execute([node])  # without what only its command line, its logs and its environments need
        main = tree.body[-1]
        assert isinstance(main, ast.If)
        loop = next(node for node in main.body if isinstance(node, ast.For))
        places = {ast.unparse(node.targets[0]): i for i, node in enumerate(main.body) if isinstance(node, ast.Assign)}
        branches = {ast.unparse(node.test): node for node in ast.walk(loop) if isinstance(node, ast.If)}
        spaces_of_env = types.SimpleNamespace(
            single_action_space=spaces.Discrete(N_ACTIONS), single_observation_space=spaces.Box(0, 255, SHAPE, np.uint8)
        )
        args = self.names["Args"](
            buffer_size=self.settings.buffer,
            batch_size=self.settings.batch,
            learning_starts=LEARNING_STARTS,
            total_timesteps=10**9,
        )
        self.names.update(args=args, envs=spaces_of_env, device=th.device(self.settings.device), global_step=1, writer=None)
        self._execute(main.body[places["q_network"] : places["start_time"]])
        self.training = self._compile(branches["global_step % args.train_frequency == 0"].body)
        self.body, self.env, self.count = self._compile(loop.body), env, 0
        buffer = self.names["rb"]
        add = buffer.add  # it relies on arrays of one element being numbers, which they no longer are in NumPy 2.4
        buffer.add = lambda *parts: add(*(part[0] for part in parts))
        self.watch(buffer, "sample", "replay")
        self.watch(buffer, "update_priorities", "priorities")

    @staticmethod
    def _compile(nodes: list[Any]) -> types.CodeType:
        return compile(ast.Module(body=nodes, type_ignores=[]), "rainbow_atari.py", "exec")

    def _execute(self, nodes: list[Any]) -> None:
        exec(self._compile(nodes), self.names)

    def add(self, step: Step) -> None:
        terminated = step.dones & ~step.truncated
        self.names["rb"].add(step.obs, step.actions, step.rewards, step.next_obs, terminated)

    def step(self) -> None:
        exec(self.training, self.names)

    def run(self, n_steps: int) -> None:
        if self.count == 0:
            self.names.update(envs=OneEnv(self.env), start_time=0.0, writer=types.SimpleNamespace(add_scalar=lambda *_: None))
            self.names.update(obs=self.env.reset(seed=0)[0][None], print=lambda *_: None)
        for _ in range(n_steps):
            self.names["global_step"] = self.count
            exec(self.body, self.names)
            self.count += 1


class OneEnv:
    """One environment as Gymnasium's vector environments were in version 0.28, which CleanRL is written for."""

    def __init__(self, env: gymnasium.Env) -> None:
        self.env = env

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        obs, reward, terminated, truncated, _ = self.env.step(int(actions[0]))
        infos: dict[str, Any] = {}
        if terminated or truncated:
            infos["final_observation"] = [obs]
            obs = self.env.reset()[0]
        return obs[None], np.array([reward]), np.array([terminated]), np.array([truncated]), infos


PEERS: dict[str, tuple[type[Contender], ...]] = {
    "rainbow": (PFRL, Tianshou, WholeTianshou, CleanRL),
    "iqn": (PFRL, Tianshou),
    "qrdqn": (ContribQRDQNContender, Tianshou),
    "dqn": (SB3DQN, PFRL, Tianshou),
}


def peer_factories(settings: Settings) -> dict[str, Callable[..., Contender]]:
    """
    :param settings: what they are made with
    :return: what makes the other libraries' contenders, by name
    """

    def factory(peer: type[Contender]) -> Callable[..., Contender]:
        return lambda env=None: peer(settings, env)

    return {peer.name: factory(peer) for peer in PEERS[settings.family]}
