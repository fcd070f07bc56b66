"""Atari games in rl-zoo3: frames are skipped only once, and AtariVecEnv can replace SB3's wrapper."""

from typing import Any

import gymnasium
from stable_baselines3.common.atari_wrappers import AtariWrapper

from sb3_distrl.zoo.entries import Hyperparams

ATARI_WRAPPER = f"{AtariWrapper.__module__}.{AtariWrapper.__qualname__}"


def _wrappers(hyperparams: Hyperparams) -> list[tuple[str, dict[str, Any]]]:
    """:return: names and arguments of the wrappers of an entry"""
    wrappers = hyperparams.get("env_wrapper") or []
    named = []
    for wrapper in wrappers if isinstance(wrappers, list) else [wrappers]:
        name, arguments = next(iter(wrapper.items())) if isinstance(wrapper, dict) else (wrapper, None)
        named.append((ATARI_WRAPPER if name is AtariWrapper else str(name), arguments or {}))
    return named


def single_frame_skip(env_id: str, hyperparams: Hyperparams, env_kwargs: dict[str, Any]) -> dict[str, Any]:
    """:return: additions to ``env_kwargs`` so that only SB3's wrapper skips frames, not the game as well"""
    frameskip = env_kwargs.get("frameskip", gymnasium.spec(env_id).kwargs.get("frameskip", 1))
    skip = dict(_wrappers(hyperparams)).get(ATARI_WRAPPER, {"frame_skip": 1}).get("frame_skip", 4)
    if skip == 1 or frameskip == 1:
        return {}
    if "frameskip" in env_kwargs:
        print(f"Warning: {env_id} skips {frameskip} frames and AtariWrapper {skip}: leave frameskip out of env_kwargs.")
        return {}
    print(f"{env_id} skips {frameskip} frames and AtariWrapper {skip}: using frameskip=1, so that only the wrapper does.")
    return {"frameskip": 1}


def atari_vec_env_kwargs(hyperparams: Hyperparams) -> dict[str, Any]:
    """:return: arguments of the AtariVecEnv that replaces the wrappers of an entry"""
    wrappers = _wrappers(hyperparams)
    if [name for name, _ in wrappers] != [ATARI_WRAPPER] or hyperparams.get("monitor_kwargs"):
        raise ValueError(
            f"--vec-env ale replaces env_wrapper={ATARI_WRAPPER} alone, without monitor_kwargs, but the entry has "
            f"env_wrapper={[name for name, _ in wrappers]}: change it, or use --vec-env dummy or subproc."
        )
    return {"n_stack": hyperparams.get("frame_stack") or 1, **wrappers[0][1]}
