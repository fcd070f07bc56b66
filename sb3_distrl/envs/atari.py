"""Atari games in ale-py's C++ vector environment, as an SB3 ``VecEnv``."""

import os
import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from sb3_distrl.validation import check_at_least

ENTRY_POINT = "ale_py.env:AtariEnv"
FORWARDED = {"repeat_action_probability", "full_action_space", "max_num_frames_per_episode"}
IGNORED = {"game", "frameskip", "render_mode"}  # used elsewhere, or without effect
NEVER = 2**30  # frames; this class itself limits the length of games
NOOP = np.zeros(1, dtype=np.int64)
ALTERNATIVE = "use SB3's make_atari_env, which is slower"


class AtariVecEnv(VecEnv):
    """
    Atari games with the preprocessing of SB3's ``AtariWrapper`` and ``VecFrameStack``, emulated by ale-py in C++ threads.

    It replaces ``VecTransposeImage(VecFrameStack(make_atari_env(env_id, n_envs), 4))`` (Mnih et al. 2015,
    https://doi.org/10.1038/nature14236): no-ops and FIRE at the start, frame skip, maximum of the last two frames, grayscale,
    84 x 84, stacks that start with zeros, rewards of -1, 0 and 1, and loss of a life as a terminal state, after which the game
    continues. Infos have ``lives``, ``episode_frame_number``, ``frame_number`` and ``TimeLimit.truncated``; at the end of an
    episode ``terminal_observation``; and at the end of a game, not of a life, ``episode`` with the unclipped return and the
    length in frames, like SB3's ``Monitor``. Each game has its own thread, which runs from ``step_async`` on.

    With the same actions and no no-ops, rewards, ends of episodes, lives, and returns and lengths of games equal SB3's. So do
    the observations of some games, such as Breakout, to the bit (compared in ``tests/envs/test_atari.py``, and in 500 random
    steps of each of the 102 games that SB3's wrappers accept). The differences are:

    - Pixels: SB3 takes the maximum of two frames in colour, ale-py in grayscale. In Pong, 0.2% of the pixels differ, by at
      most 16 of 255. Of the 102 games, 12 have no such pixels, half have less than 0.1% and all less than 4%, by at most 43;
      the exception is AirRaid, where half of the pixels differ, by at most 110.
    - No-ops: ale-py draws 0 to ``noop_max`` - 1 of them, SB3 1 to ``noop_max``. These and sticky actions come from other
      random generators.
    - The last observation of a lost game, which is never bootstrapped from: ale-py omits the frames in which the game is lost.
    - A game that reaches its maximum length plays up to ``frame_skip`` - 1 more frames, so that its last observation is that
      of a whole step; SB3 stops at once and shows older frames.
    - The lengths of AirRaid, Berzerk and Pacman include the 8 to 20 frames that ale-py plays first.
    - ``reset()`` starts new games; SB3 continues with the next life of the old ones.
    - ``get_images()`` shows what the agent sees, in grayscale.

    :param env_id: a game that ale-py registers, such as ``BreakoutNoFrameskip-v4`` or ``ALE/Breakout-v5``; its own frame skip
        is ignored
    :param n_envs: number of games
    :param seed: seed of the first game; the others count up from it. By default random
    :param noop_max: maximum number of no-ops at the start of a game, in frames; 0 for none
    :param frame_skip: frames per step
    :param screen_size: height and width of observations, in pixels
    :param terminal_on_life_loss: whether the loss of a life ends the episode
    :param clip_reward: whether rewards are replaced by their signs
    :param action_repeat_probability: probability of repeating the last action in a frame; 0 takes that of ``env_id``, which is
        0 for v4 and 0.25 for v5
    :param n_stack: number of frames in an observation
    :param env_kwargs: arguments of the environment: ``repeat_action_probability``, ``full_action_space``, and
        ``max_num_frames_per_episode`` (frames; 108,000 in ale-py's registered games)
    :param monitor_dir: folder for files with returns and lengths of games, as SB3's ``Monitor`` writes them
    :raises ValueError: for a game or arguments that this environment does not support
    :raises DependencyNotInstalled: if ale-py is not installed, or has no vector environment
    """

    render_mode = "rgb_array"

    def __init__(
        self,
        env_id: str,
        n_envs: int = 1,
        seed: int | None = None,
        noop_max: int = 30,
        frame_skip: int = 4,
        screen_size: int = 84,
        terminal_on_life_loss: bool = True,
        clip_reward: bool = True,
        action_repeat_probability: float = 0.0,
        n_stack: int = 4,
        env_kwargs: dict[str, Any] | None = None,
        monitor_dir: str | None = None,
    ) -> None:
        check_at_least("noop_max", noop_max, 0, "use 0 to start games without no-ops")
        for name, value in dict(n_envs=n_envs, frame_skip=frame_skip, screen_size=screen_size, n_stack=n_stack).items():
            check_at_least(name, value, 1, "use a positive number")
        try:
            import ale_py
            from ale_py import AtariVectorEnv
        except ImportError as error:
            raise DependencyNotInstalled(
                "ale-py with a vector environment is not installed: pip install 'sb3-distrl[atari]'."
            ) from error
        gymnasium.register_envs(ale_py)
        self.spec, settings = self._read(env_id, env_kwargs or {})
        repeat = settings.get("repeat_action_probability", 0.25)  # AtariEnv's default
        if repeat and action_repeat_probability:
            raise ValueError(
                f"action_repeat_probability={action_repeat_probability} comes on top of {env_id}'s own {repeat}: "
                "set only repeat_action_probability, in env_kwargs."
            )
        self._games = [
            AtariVectorEnv(  # one for each game, so that each can play the start of an episode while the others wait
                settings["game"],
                num_envs=1,
                num_threads=1,
                max_num_frames_per_episode=NEVER,
                repeat_action_probability=repeat or action_repeat_probability,
                full_action_space=settings.get("full_action_space", False),
                img_height=screen_size,
                img_width=screen_size,
                stack_num=1,
                frameskip=frame_skip,
                noop_max=noop_max,
                reward_clipping=False,
                use_fire_reset=False,
            )
            for _ in range(n_envs)
        ]
        actions = self._games[0].ale.get_action_set()
        fire = ale_py.Action.FIRE in actions
        if actions[0] != ale_py.Action.NOOP:
            raise ValueError(
                f"env_id={env_id} does not have NOOP as its first action, so AtariWrapper refuses it: use another game."
            )
        self._opening = [np.array([1]), np.array([2])] if fire else []  # SB3's FireResetEnv starts an episode with these
        self.terminal_on_life_loss = terminal_on_life_loss
        self.clip_reward = clip_reward
        self._max_frames = settings.get("max_num_frames_per_episode") or NEVER
        shape = (n_stack, screen_size, screen_size)
        super().__init__(n_envs, spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(len(actions)))
        self._stacks = np.zeros((n_envs, *shape), dtype=np.uint8)
        self._lives = [0] * n_envs
        self._returns = [0] * n_envs
        self._busy = [False] * n_envs  # games that were sent an action and whose result is pending
        self._start_time = time.time()
        self._writers: list[ResultsWriter] = []
        if monitor_dir is not None:
            os.makedirs(monitor_dir, exist_ok=True)
            header: dict[str, float | str] = {"t_start": self._start_time, "env_id": env_id}
            self._writers = [ResultsWriter(os.path.join(monitor_dir, str(i)), header=header) for i in range(n_envs)]
        self.seed(seed)

    @staticmethod
    def _read(env_id: str, env_kwargs: dict[str, Any]) -> tuple[gymnasium.envs.registration.EnvSpec, dict[str, Any]]:
        """:return: the registered game and its arguments"""
        spec = gymnasium.registry.get(env_id)
        if spec is None or spec.entry_point != ENTRY_POINT or spec.max_episode_steps or spec.additional_wrappers:
            raise ValueError(f"env_id={env_id} is not a game of ale-py: use one, such as PongNoFrameskip-v4 or ALE/Pong-v5.")
        settings = {**spec.kwargs, **env_kwargs}
        if not isinstance(settings.get("frameskip", 4), int):
            raise ValueError(
                f"env_id={env_id} skips a random number of frames, frameskip={settings['frameskip']}: "
                f"use {settings['game'].title().replace('_', '')}NoFrameskip-v4."
            )
        unknown = {name: value for name, value in settings.items() if name not in FORWARDED | IGNORED}
        if unknown.get("obs_type") in ("rgb", "grayscale"):  # AtariWrapper's observations are the same for both
            del unknown["obs_type"]
        if unknown:
            raise ValueError(
                f"env_kwargs={unknown} cannot be given to ale-py's vector environment: leave them out, or {ALTERNATIVE}."
            )
        return spec, settings

    # Steps

    def reset(self) -> np.ndarray:
        """Start new games; return their observations, shape [n_envs, n_stack, screen_size, screen_size]."""
        for i in range(self.num_envs):
            if self._busy[i]:  # discard the result of an abandoned step
                self._receive(i)
        left = {i: self._new_game(i, seed) for i, seed in enumerate(self._seeds)}
        self._reset_seeds()
        self._reset_options()
        self._begin(left)
        return self._stacks.copy()

    def step_async(self, actions: np.ndarray) -> None:
        actions = np.asarray(actions, dtype=np.int64)
        if actions.shape not in ((self.num_envs,), (self.num_envs, 1)):
            raise ValueError(f"actions of shape {actions.shape} should have shape ({self.num_envs},): pass one for each game.")
        actions = actions.reshape(self.num_envs)
        if actions.min() < 0 or actions.max() >= self.action_space.n:  # type: ignore[attr-defined]
            raise ValueError(f"actions={actions.tolist()} must be from {self.action_space}.")  # ale-py would wait forever
        if any(self._busy):
            raise RuntimeError("The previous step was not waited for, or was interrupted: call step_wait() or reset() first.")
        for i in range(self.num_envs):
            self._send(i, actions[i : i + 1])

    def step_wait(self) -> VecEnvStepReturn:
        if not all(self._busy):
            raise RuntimeError("No step is under way: call step_async() first.")
        stacks = self._stacks
        stacks[:, :-1] = stacks[:, 1:]
        rewards, dones = np.zeros(self.num_envs, dtype=np.float32), np.zeros(self.num_envs, dtype=bool)
        infos: list[dict[str, Any]] = []
        left: dict[int, list[np.ndarray]] = {}
        for i in range(self.num_envs):
            lives = self._lives[i]
            frame, rewards[i], over, info = self._receive(i)
            stacks[i, -1] = frame
            truncated = not over and info["episode_frame_number"] >= self._max_frames
            life_lost = self.terminal_on_life_loss and 0 < info["lives"] < lives
            dones[i] = over or truncated or life_lost
            info["TimeLimit.truncated"] = truncated and not life_lost
            infos.append(info)
            if not dones[i]:
                continue
            info["terminal_observation"] = stacks[i].copy()
            if over or truncated:
                info["episode"] = self._end_of_game(i, info["episode_frame_number"])
            if truncated:
                left[i] = self._new_game(i)
            else:
                self._send(i, NOOP)  # after the end of a game, ale-py resets on any action
                left[i] = self._opening
        self._begin(left)
        if self.clip_reward:
            np.sign(rewards, out=rewards)
        return stacks.copy(), rewards, dones, infos

    def _send(self, i: int, action: np.ndarray) -> None:
        self._busy[i] = True
        self._games[i].send(action)

    def _receive(self, i: int) -> tuple[np.ndarray, int, bool, dict[str, Any]]:
        """:return: frame, unclipped reward, whether the game is over, and info"""
        frames, rewards, terminated, _, ale_info = self._games[i].recv()
        self._busy[i] = False
        info = {name: int(ale_info[name][0]) for name in ("lives", "episode_frame_number", "frame_number")}
        self._lives[i] = info["lives"]
        reward = int(rewards[0])
        self._returns[i] += reward
        return frames[0, 0], reward, bool(terminated[0]), info

    def _new_game(self, i: int, seed: int | None = None) -> list[np.ndarray]:
        """Start a game and send the first action of the opening; return its other actions."""
        frames, ale_info = self._games[i].reset(seed=None if seed is None else seed % 2**31)  # ale-py takes 32 bits, signed
        self._lives[i], self._returns[i] = int(ale_info["lives"][0]), 0
        self._show_first(i, frames[0, 0])
        if self._opening:
            self._send(i, self._opening[0])
        return self._opening[1:]

    def _begin(self, left: dict[int, list[np.ndarray]]) -> None:
        """Play the remaining actions of each game's opening, in parallel, and receive all pending frames."""
        while left := {i: actions for i, actions in left.items() if self._busy[i]}:
            for i, actions in left.items():
                frame, _, over, _ = self._receive(i)
                self._show_first(i, frame)
                if over:  # during the opening: continue it in a new game
                    self._returns[i] = 0
                    self._send(i, NOOP)
                elif actions:
                    self._send(i, actions[0])
                    left[i] = actions[1:]

    def _show_first(self, i: int, frame: np.ndarray) -> None:
        self._stacks[i] = 0
        self._stacks[i, -1] = frame

    def _end_of_game(self, i: int, n_frames: int) -> dict[str, Any]:
        """Write a row as SB3's Monitor does, and return it."""
        episode = {"r": float(self._returns[i]), "l": n_frames, "t": round(time.time() - self._start_time, 6)}
        self._returns[i] = 0
        if self._writers:
            self._writers[i].write_row(episode)
        return episode

    # The rest of a VecEnv

    def close(self) -> None:
        self._games = []
        for writer in self._writers:
            writer.close()
        self._writers = []

    def get_images(self) -> Sequence[np.ndarray]:
        """:return: the newest frame of each game, shape [screen_size, screen_size, 3]"""
        return [np.repeat(frame[:, :, None], 3, axis=2) for frame in self._stacks[:, -1]]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Get an attribute of this object, which all games share."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise NotImplementedError(f"set_attr({attr_name!r}): games run in C++ and have no attributes: {ALTERNATIVE}.")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError(f"env_method({method_name!r}): games run in C++ and have no methods: {ALTERNATIVE}.")

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Only Monitor counts as a wrapper, because infos have its statistics."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
