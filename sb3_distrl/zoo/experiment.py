"""rl-zoo3's experiments, adapted to this library's algorithms."""

import argparse
import copy
import signal
from functools import partial
from pathlib import Path
from pprint import pprint
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import optuna
import yaml
from optuna.samplers import BaseSampler
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.checkpoints import is_checkpoint, take_checkpoint
from sb3_distrl.distributed import ApeX
from sb3_distrl.distributed.envs import ActorEnvs
from sb3_distrl.envs import AtariVecEnv
from sb3_distrl.zoo.actors import ActorEnvMaker, ActorMonitorCallback
from sb3_distrl.zoo.atari import atari_vec_env_kwargs, single_frame_skip
from sb3_distrl.zoo.entries import Hyperparams, Mergeable, hyperparams_file, read_entry
from sb3_distrl.zoo.study import write_report
from sb3_distrl.zoo.trials import SeedTrial, load_study, read_trial


class Experiment(ExperimentManager):
    """
    rl-zoo3's ``ExperimentManager`` with this library's hyperparameter files. The arguments are the same; the differences are:

    - ``args.entry`` names the entry of the hyperparameter file; by default it is that of the environment
    - ``args.n_seeds``: a trial's score is the mean over that many seeds; trials are always seeded
    - ``env_kwargs`` of an entry also apply to the evaluation environment
    - sampled ``policy_kwargs`` are merged into those of the entry instead of replacing them
    - ``trial_id`` may be 0
    - frames of Atari games are skipped only once, by SB3's wrapper
    - ``vec_env_type="ale"`` plays Atari games with :class:`~sb3_distrl.envs.AtariVecEnv`, in training and evaluation
    - with ``-i``, this library's algorithms resume their run: its hyperparameters, schedules, counters and, unless a seed is
      given (``args.seed_given``), random generators
    - algorithms with actors get a function that makes the ``n_envs`` environments of one actor
    - a study ends with a report, plots, and an entry to train from
    """

    def __init__(self, args: argparse.Namespace, algo: str, *rest: Any, **kwargs: Any) -> None:
        self.conf_file_given = kwargs.get("config") is not None
        if not self.conf_file_given and hyperparams_file(algo).is_file():
            kwargs["config"] = str(hyperparams_file(algo))
        self.with_ale = kwargs.get("vec_env_type") == "ale"
        if self.with_ale:
            kwargs["vec_env_type"] = "dummy"  # rl-zoo3 does not know "ale"
        super().__init__(args, algo, *rest, **kwargs)
        self.has_actors = issubclass(ALGOS[algo], ApeX)
        self.n_timesteps_given = self.n_timesteps > 0
        self.entry: str | None = getattr(args, "entry", None)
        self.n_seeds: int = getattr(args, "n_seeds", 1)
        self.seed_given: bool = getattr(args, "seed_given", True)
        self.study: optuna.Study | None = None
        self.saved_hyperparams: Hyperparams = {}
        self.ale_kwargs: dict[str, Any] = {}
        self.n_actors = 1

    def read_hyperparameters(self) -> tuple[Hyperparams, Hyperparams]:
        """:return: the hyperparameters twice: to use and to save"""
        hyperparams = Mergeable(self._read_entry())
        if self.trial_id is not None:
            hyperparams.update(read_trial(self.algo, self.storage, self.study_name, self.trial_id))
        dict.update(hyperparams, self.custom_hyperparams or {})

        env_kwargs = {**(hyperparams.get("env_kwargs") or {}), **self.env_kwargs}
        if self._is_atari:
            env_kwargs.update(single_frame_skip(self.env_name.gym_id, hyperparams, env_kwargs))
        self.eval_env_kwargs = {**env_kwargs, **(self._eval_env_kwargs_args or {})}
        self.env_kwargs = env_kwargs
        hyperparams.pop("env_kwargs", None)
        if env_kwargs:
            hyperparams["env_kwargs"] = env_kwargs
        self.args.env_kwargs = env_kwargs or None  # saved in args.yml, which rl-zoo3's other commands read
        if self.with_ale:
            if not self._is_atari:
                raise ValueError(f"--vec-env ale plays Atari games only, not {self.env_name.gym_id}: use dummy or subproc.")
            self.ale_kwargs = atari_vec_env_kwargs(hyperparams)

        self.saved_hyperparams = {name: copy.deepcopy(hyperparams[name]) for name in sorted(hyperparams)}
        print("Hyperparameters (those being tuned will be overridden):")
        pprint(self.saved_hyperparams)
        return dict(hyperparams), self.saved_hyperparams

    def _read_entry(self) -> Hyperparams:
        """:return: the environment's entry, or the saved hyperparameters of the run to resume"""
        run = Path(self.trained_agent).parent / self.env_name / "config.yml"
        resumes = self.continue_training and issubclass(ALGOS[self.algo], ValueAlgorithm)
        if resumes and run.is_file() and not self.conf_file_given and not self.entry:
            print(f"Loading hyperparameters from: {run}")
            return dict(yaml.load(run.read_text(), Loader=yaml.UnsafeLoader))  # as rl-zoo3 writes and reads it
        print(f"Loading hyperparameters from: {self.config}")
        return read_entry(self.config, self.algo, self.env_name.gym_id, self._is_atari, self.entry)

    # Training

    def _preprocess_hyperparams(self, hyperparams: Hyperparams) -> Any:
        processed = super()._preprocess_hyperparams(hyperparams)
        if self.has_actors:
            if self.optimize_hyperparameters:
                raise ValueError(f"algo={self.algo} cannot be tuned: tune it without actors, and train with the result.")
            self.n_actors = processed[0].setdefault("n_actors", 2)
            self.n_envs *= self.n_actors  # rl-zoo3 divides the frequencies of callbacks by it
        return processed

    def create_callbacks(self) -> None:
        super().create_callbacks()
        if self.has_actors:
            self.callbacks.append(ActorMonitorCallback(self.save_path, self.env_name.gym_id))

    def _load_pretrained_agent(self, hyperparams: Hyperparams, env: VecEnv) -> BaseAlgorithm:
        run = copy.copy(self)
        if issubclass(ALGOS[self.algo], ValueAlgorithm) and not self.seed_given:
            run.seed = None  # type: ignore[assignment]
        model = super(Experiment, run)._load_pretrained_agent(hyperparams, env)
        if not isinstance(model, ValueAlgorithm):
            return model
        left = model._total_timesteps - model.num_timesteps
        if left > 0 and not self.n_timesteps_given:
            self.n_timesteps = left  # of the interrupted run
        print(f"Resuming after {model.num_timesteps:,} steps, for {self.n_timesteps:,} more")
        if is_checkpoint(self.trained_agent):
            take_checkpoint(model, self.trained_agent, {})
        elif not (Path(self.trained_agent).parent / "replay_buffer.pkl").exists():
            print("Warning: no replay_buffer.pkl beside the agent, so replay starts empty: train with --save-replay-buffer.")
        return model

    def learn(self, model: BaseAlgorithm) -> None:
        """Train as in rl-zoo3; a resumed model keeps its schedules and counters."""
        learner = model
        if self.continue_training and isinstance(model, ValueAlgorithm):
            learner = SimpleNamespace(env=model.env, learn=partial(model.learn, reset_num_timesteps=False))  # type: ignore[assignment]
        super().learn(learner)
        if model.num_timesteps < model._total_timesteps:
            print(f"Interrupted after {model.num_timesteps:,} of {model._total_timesteps:,} steps: resume with -i")

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Make environments as in rl-zoo3; those in other processes ignore Ctrl-C, which the main process handles."""
        if self.has_actors and not (eval_env or no_log):
            return ActorEnvs(ActorEnvMaker(self, n_envs // self.n_actors), self.n_actors, None)
        run, wrapper = copy.copy(self), self.env_wrapper

        def wrap(env: gymnasium.Env) -> gymnasium.Env:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            return env if wrapper is None else wrapper(env)

        if self.with_ale:
            run.vec_env_class = partial(self._create_ale, eval_env, no_log)  # type: ignore[assignment]
            run.frame_stack = None
        elif self.vec_env_class is SubprocVecEnv:
            run.env_wrapper = wrap
        return super(Experiment, run).create_envs(n_envs, eval_env, no_log)

    def _create_ale(self, eval_env: bool, no_log: bool, makers: list[Any]) -> AtariVecEnv:
        """:return: a game for each of rl-zoo3's ``makers``; rl-zoo3 seeds them"""
        return AtariVecEnv(
            self.env_name.gym_id,
            len(makers),
            env_kwargs=self.eval_env_kwargs if eval_env else self.env_kwargs,
            monitor_dir=None if eval_env or no_log else self.save_path,
            **self.ale_kwargs,
        )

    # Tuning

    def objective(self, trial: optuna.Trial) -> float:
        """:return: the mean return of the last evaluation, averaged over seeds"""
        self.study = trial.study
        trial.set_user_attr("seeds", [self.seed + i for i in range(self.n_seeds)])
        scores: list[float] = []
        last_step = 0
        for i in range(self.n_seeds):
            run = copy.copy(self)  # trials may run in several threads
            run.seed = self.seed + i
            run._hyperparams = Mergeable(self._hyperparams)
            set_random_seed(run.seed)
            seed_trial = SeedTrial(trial, scores, last_step, str(self._hyperparams.get("policy")))
            scores.append(float(super(Experiment, run).objective(seed_trial)))  # type: ignore[arg-type]
            last_step = seed_trial.last_step
        trial.set_user_attr("scores", scores)
        return float(np.mean(scores))

    def _create_sampler(self, sampler_method: str) -> BaseSampler:
        sampler = super()._create_sampler(sampler_method)
        if self.storage is not None:
            sampler.reseed_rng()  # otherwise, processes that share or resume a study propose the same trials
        return sampler

    def hyperparameters_optimization(self) -> None:
        """Run the study, then write its report, the entry of the best trial, and plots."""
        plots, self.no_optim_plots = not self.no_optim_plots, True  # rl-zoo3 would open a browser
        try:
            super().hyperparameters_optimization()
        except ValueError as error:
            if "No trials are completed" not in str(error):
                raise
            raise ValueError("No trial was completed: use more --n-trials, --pruner none, or see why they failed.") from error
        study = self.study
        if study is None:  # other processes ran all trials
            assert self.storage is not None and self.study_name is not None
            study = load_study(self.storage, self.study_name)
        env_id = self.env_name.gym_id
        hyperparams = Mergeable(self.saved_hyperparams)
        hyperparams.update(HYPERPARAMS_CONVERTER[self.algo](study.best_trial.params))
        hyperparams["n_timesteps"] = self.n_timesteps
        stem = Path(self.log_path) / f"report_{self.env_name}_{study.study_name}"
        files = write_report(study, stem, self.algo, env_id, self.n_timesteps, hyperparams, plots)
        print("Wrote", *files, sep="\n  ")
        print(f"To train with the best: sb3-distrl train --algo {self.algo} --env {env_id} --conf-file {files[1]}")
