"""
The floor of a gradient step: the networks of ``gradient_steps.py`` in plain PyTorch, on tensors that are ready.

A step is what the update needs and no more: the passes that give the targets, without autograd; the loss, its backward pass
and Adam. There is no replay, no priorities, no metrics and no gradient clipping. Noise is fresh in every pass, as in the
algorithms. Nothing here is from sb3_distrl. On a CPU, images lie channels last, and malloc keeps what is freed for the next
step: both are faster, and make the floor lower.

Each network runs in several ways, which take turns: with PyTorch's default Adam and with the fused one; noisy layers as two
products, mean and sigma, or composed into one weight first; in float32 or under autocast to bfloat16; eager or compiled.
"""

import argparse
import contextlib
import fnmatch
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch as th
from replay.stream import N_ACTIONS, Step
from shared import machine
from torch import nn
from torch.nn import functional as F

from speed.contenders import (
    ADAM,
    GAMMA,
    HIDDEN,
    N_ATOMS,
    N_COS,
    N_EVAL_FRACTIONS,
    N_FRACTIONS,
    N_QUANTILES,
    N_STEPS,
    NOISY_STD,
    V_MAX,
    Contender,
    Settings,
    random_batch,
    take_turn,
    time_turns,
    warm_up,
)

FEATURES = 3136  # of the convolutions
KEPT = 2**25 - 2**16  # bytes, as large as glibc counts: it gives memory back to the system above twice the largest freed block


class Noisy(nn.Linear):
    """
    Noisy linear layer (Fortunato et al. 2018).

    :param composed: build the noisy weight first, instead of two products
    """

    def __init__(self, in_features: int, out_features: int, composed: bool) -> None:
        super().__init__(in_features, out_features)
        self.weight_sigma = nn.Parameter(th.full_like(self.weight, NOISY_STD / math.sqrt(in_features)))
        self.bias_sigma = nn.Parameter(th.full_like(self.bias, NOISY_STD / math.sqrt(in_features)))
        self.composed = composed

    def forward(self, x: th.Tensor) -> th.Tensor:
        noise = th.randn(self.in_features + self.out_features, device=x.device)
        noise_in, noise_out = (noise.sign() * noise.abs().sqrt()).split([self.in_features, self.out_features])
        if self.composed:
            weight = th.addcmul(self.weight, self.weight_sigma, th.outer(noise_out, noise_in))
            return F.linear(x, weight, th.addcmul(self.bias, self.bias_sigma, noise_out))
        mean = F.linear(x, self.weight, self.bias)
        return mean + noise_out * F.linear(x * noise_in, self.weight_sigma, self.bias_sigma)


def convolutions() -> nn.Sequential:
    """:return: those of the Nature DQN (Mnih et al. 2015)"""
    layers = nn.Conv2d(4, 32, 8, stride=4), nn.Conv2d(32, 64, 4, stride=2), nn.Conv2d(64, 64, 3, stride=1)
    return nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())), nn.Flatten())


class Plain(nn.Module):
    """
    Hidden layer and outputs on the convolutions.

    :param n_outputs: of each action
    """

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.convolutions, self.n_outputs = convolutions(), n_outputs
        self.head = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, N_ACTIONS * n_outputs))

    def forward(self, obs: th.Tensor) -> th.Tensor:
        return self.head(self.convolutions(obs.float() / 255)).view(-1, N_ACTIONS, self.n_outputs)  # [B, A, N]


class Dueling(nn.Module):
    """Noisy dueling network of Rainbow (Hessel et al. 2018)."""

    def __init__(self, composed: bool) -> None:
        super().__init__()
        self.convolutions = convolutions()
        self.value, self.advantage = (
            nn.Sequential(Noisy(FEATURES, HIDDEN, composed), nn.ReLU(), Noisy(HIDDEN, n * N_ATOMS, composed))
            for n in (1, N_ACTIONS)
        )

    def forward(self, obs: th.Tensor) -> th.Tensor:
        features = self.convolutions(obs.float() / 255)
        advantage = self.advantage(features).view(-1, N_ACTIONS, N_ATOMS)
        return self.value(features).view(-1, 1, N_ATOMS) + advantage - advantage.mean(dim=1, keepdim=True)  # [B, A, Z]


class Implicit(nn.Module):
    """Implicit quantile network (Dabney et al. 2018b)."""

    frequencies: th.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convolutions, self.embedding = convolutions(), nn.Linear(N_COS, FEATURES)
        self.head = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, N_ACTIONS))
        self.register_buffer("frequencies", math.pi * th.arange(1, N_COS + 1))

    def features(self, obs: th.Tensor) -> th.Tensor:
        return self.convolutions(obs.float() / 255)

    def quantiles(self, features: th.Tensor, taus: th.Tensor) -> th.Tensor:
        embedded = F.relu(self.embedding(th.cos(taus.unsqueeze(-1) * self.frequencies)))  # [B, N, 3136]
        return self.head(features.unsqueeze(1) * embedded).mT  # [B, A, N]


def chosen(outputs: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """:return: of outputs [B, A, N] those of the actions [B], shape [B, N]"""
    return outputs[th.arange(len(actions), device=actions.device), actions]


def quantile_loss(quantiles: th.Tensor, targets: th.Tensor, taus: th.Tensor) -> th.Tensor:
    """:return: quantile Huber loss of quantiles [B, N] and targets [B, M]"""
    quantiles, targets = th.broadcast_tensors(quantiles.unsqueeze(2), targets.unsqueeze(1))
    huber = F.smooth_l1_loss(quantiles, targets, reduction="none")
    return ((taus.unsqueeze(2) - (targets < quantiles).float()).abs() * huber).mean(dim=2).sum(dim=1).mean()


class Way(NamedTuple):
    """How to compute."""

    fused: bool = True  # Adam
    composed: bool = True  # weights of noisy layers
    bf16: bool = False
    compile: bool = False

    def __str__(self) -> str:
        words = ["bf16"] * self.bf16 + ["compile"] * self.compile
        words += ["default Adam"] * (not self.fused) + ["two products"] * (not self.composed)
        return ", ".join(words)


class Floor(Contender):
    """
    The bare gradient step of a family; its replay is one batch.

    :param settings: family, batch and device
    :param way: how to compute
    """

    def __init__(self, settings: Settings, way: Way) -> None:
        self.way = way
        self.name = ", ".join(filter(None, ["floor", str(way)]))
        super().__init__(settings)

    def _make(self, env: Any) -> None:
        self.family, self.device = self.settings.family, th.device(self.settings.device)
        networks: dict[str, Callable[[], Any]] = {
            "rainbow": lambda: Dueling(self.way.composed),
            "iqn": Implicit,
            "qrdqn": lambda: Plain(N_QUANTILES),
            "dqn": lambda: Plain(1),
        }
        self.network, self.target = (networks[self.family]().to(self.device) for _ in range(2))
        self.target.requires_grad_(False).load_state_dict(self.network.state_dict())
        learning_rate, eps = ADAM[self.family]
        self.adam = th.optim.Adam(self.network.parameters(), learning_rate, eps=eps, fused=self.way.fused or None)
        self.support = th.linspace(-V_MAX, V_MAX, N_ATOMS, device=self.device)
        self.taus = ((th.arange(N_QUANTILES, device=self.device) + 0.5) / N_QUANTILES).unsqueeze(0)
        self.batch = [part.to(self.device) for part in random_batch(self.settings.batch)]
        if self.device.type == "cpu":
            self.batch[:2] = [images.contiguous(memory_format=th.channels_last) for images in self.batch[:2]]
            th.empty(KEPT, dtype=th.uint8)  # freeing it at once raises the threshold (mallopt(3), M_MMAP_THRESHOLD)
        self.loss: Callable[..., th.Tensor] = getattr(self, f"_{self.family}_loss")
        if self.way.compile:
            self.loss = th.compile(self.loss)

    def _passes(self) -> contextlib.AbstractContextManager:
        """:return: the context of the networks' passes"""
        return th.autocast(self.device.type, th.bfloat16) if self.way.bf16 else contextlib.nullcontext()

    def _rainbow_loss(self, obs: th.Tensor, next_obs: th.Tensor, actions: th.Tensor, rewards: th.Tensor, bootstrap: th.Tensor):
        with th.no_grad():
            with self._passes():
                next_logits, selecting = self.target(next_obs).float(), self.network(next_obs).float()
            best = (selecting.softmax(dim=2) @ self.support).argmax(dim=1)
            probs = chosen(next_logits, best).softmax(dim=1)
            atoms = (rewards + bootstrap**N_STEPS * self.support).clamp(-V_MAX, V_MAX)
            places = (atoms + V_MAX) / (2 * V_MAX / (N_ATOMS - 1))
            low = places.floor().clamp(max=N_ATOMS - 2)
            share = places - low
            projected = th.zeros_like(probs).scatter_add(1, low.long(), probs * (1 - share))
            projected = projected.scatter_add(1, low.long() + 1, probs * share)
        with self._passes():
            logits = chosen(self.network(obs), actions)
        return -(projected * logits.float().log_softmax(dim=1)).sum(dim=1).mean()

    def _iqn_loss(self, obs: th.Tensor, next_obs: th.Tensor, actions: th.Tensor, rewards: th.Tensor, bootstrap: th.Tensor):
        def fractions(n: int) -> th.Tensor:
            return th.rand(len(obs), n, device=obs.device)

        with th.no_grad(), self._passes():
            features = self.target.features(next_obs)
            best = self.target.quantiles(features, fractions(N_EVAL_FRACTIONS)).float().mean(dim=2).argmax(dim=1)
            next_quantiles = chosen(self.target.quantiles(features, fractions(N_FRACTIONS)), best)
        taus = fractions(N_FRACTIONS)
        with self._passes():
            quantiles = chosen(self.network.quantiles(self.network.features(obs), taus), actions)
        return quantile_loss(quantiles.float(), rewards + bootstrap * next_quantiles.float(), taus)

    def _qrdqn_loss(self, obs: th.Tensor, next_obs: th.Tensor, actions: th.Tensor, rewards: th.Tensor, bootstrap: th.Tensor):
        with th.no_grad(), self._passes():
            next_quantiles = self.target(next_obs).float()
        best = next_quantiles.mean(dim=2).argmax(dim=1)
        with self._passes():
            quantiles = chosen(self.network(obs), actions)
        return quantile_loss(quantiles.float(), rewards + bootstrap * chosen(next_quantiles, best), self.taus)

    def _dqn_loss(self, obs: th.Tensor, next_obs: th.Tensor, actions: th.Tensor, rewards: th.Tensor, bootstrap: th.Tensor):
        with th.no_grad(), self._passes():
            next_values = self.target(next_obs).float().amax(dim=1)
        with self._passes():
            values = chosen(self.network(obs), actions)
        return F.smooth_l1_loss(values.float(), rewards + bootstrap * next_values)

    def add(self, step: Step) -> None:
        """Nothing to add: the batch is ready."""

    def step(self) -> None:
        self.adam.zero_grad()
        self.loss(*self.batch).backward()
        self.adam.step()

    def run(self, n_steps: int) -> None:
        raise NotImplementedError("It has no environment.")


def floor_factories(settings: Settings, default_adam: bool = False) -> dict[str, Callable[..., Contender]]:
    """
    :param settings: what they are made with
    :param default_adam: one more, with PyTorch's default Adam
    :return: what makes the floors, by name
    """
    noise = (True, False) if settings.family == "rainbow" else (True,)
    ways = [Way(True, composed, bf16, compiled) for bf16 in (False, True) for compiled in (False, True) for composed in noise]
    ways += [Way(fused=False)] * default_adam

    def factory(way: Way) -> Callable[..., Contender]:
        return lambda env=None: Floor(settings, way)

    return {", ".join(filter(None, ["floor", str(way)])): factory(way) for way in ways}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="The bare gradient step in plain PyTorch, on tensors that are ready.")
    parser.add_argument("--families", nargs="+", default=["rainbow", "iqn", "qrdqn", "dqn"], choices=ADAM)
    parser.add_argument("--ways", default="*", help="pattern of names, e.g. '*bf16*'")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3, help="in each round")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    th.set_num_threads(args.threads)
    print(machine())
    for family in args.families:
        settings = Settings(family, batch=args.batch_size, device=args.device)
        factories = floor_factories(settings, default_adam=True)
        wanted = fnmatch.filter(factories, args.ways)
        floors = {name: factories[name]() for name in wanted}
        for floor in floors.values():
            warm_up(floor)
        turns: dict[str, Callable[[], dict[str, float]]] = {
            name: partial(take_turn, floor, args.steps) for name, floor in floors.items()
        }
        timings = time_turns(turns, args.rounds, family)
        first = np.median(timings[wanted[0]]["whole"])
        print(f"\n{family}, {args.threads} thread(s), batch {args.batch_size}, {args.device}; gamma {GAMMA}")
        for name, seconds in timings.items():
            middle = np.median(seconds["whole"])
            print(f"{name:45} {middle * 1e3:8.2f} ms  {middle / first:5.2f}")
