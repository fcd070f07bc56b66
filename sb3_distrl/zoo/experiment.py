"""rl-zoo3's experiments, with what this library's algorithms and users need."""

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
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.checkpoints import is_checkpoint, take_checkpoint
from sb3_distrl.distributed.envs import ActorEnvs
from sb3_distrl.envs import AtariVecEnv
from sb3_distrl.validation import nearest
from sb3_distrl.zoo.actors import ActorEnvMaker, MonitorOfActors, has_actors
from sb3_distrl.zoo.settings import Hyperparams, Mergeable, hyperparams_file, read_entries
from sb3_distrl.zoo.study import write_report
from sb3_distrl.zoo.trial import TrialOfSeed

ATARI_WRAPPER = f"{AtariWrapper.__module__}.{AtariWrapper.__qualname__}"


class Experiment(ExperimentManager):
    """
    rl-zoo3's ``ExperimentManager`` with this library's hyperparameter files, and these differences:

    - ``args.entry`` names an entry of the hyperparameter file to use instead of that of the environment
    - ``args.n_seeds``: a trial of hyperparameters is scored by the mean over that many seeds; trials are always seeded
    - ``env_kwargs`` of an entry reach the evaluation environment too
    - sampled ``policy_kwargs`` are added to those of the entry, instead of replacing all of them
    - ``trial_id`` may be 0
    - frames of Atari games that skip some by themselves are not skipped once more by SB3's wrapper
    - ``vec_env_type="ale"``: Atari games are played by :class:`~sb3_distrl.envs.AtariVecEnv`, for training and evaluation
    - this library's algorithms go on where they were with ``-i``: with the settings of their run, and schedules and counters
      continued, and random generators, too, unless a seed is given (``args.seed_given``)
    - algorithms with actors get what makes the environments of one, ``n_envs`` of them
    - a study ends with files that one can read, see and train from

    :param args: of the command line
    :param algo: name of the algorithm
    :param rest: as in rl-zoo3
    :param kwargs: as in rl-zoo3
    """

    def __init__(self, args: argparse.Namespace, algo: str, *rest: Any, **kwargs: Any) -> None:
        self.conf_file_given = kwargs.get("config") is not None
        if not self.conf_file_given and hyperparams_file(algo).is_file():
            kwargs["config"] = str(hyperparams_file(algo))
        self.with_ale = kwargs.get("vec_env_type") == "ale"
        if self.with_ale:
            kwargs["vec_env_type"] = "dummy"  # rl-zoo3 knows no other
        super().__init__(args, algo, *rest, **kwargs)
        self.n_timesteps_given = self.n_timesteps > 0
        self.entry: str | None = getattr(args, "entry", None)
        self.n_seeds: int = getattr(args, "n_seeds", 1)
        self.seed_given: bool = getattr(args, "seed_given", True)
        self.study: optuna.Study | None = None
        self.saved_hyperparams: Hyperparams = {}
        self.ale_kwargs: dict[str, Any] = {}
        self.n_actors = 1

    # Hyperparameters

    def read_hyperparameters(self) -> tuple[Hyperparams, Hyperparams]:
        """
        :return: the hyperparameters, twice: to work with, and to save
        :raises ValueError: if there are none for the environment
        """
        hyperparams = Mergeable(self._read_entry())
        if self.trial_id is not None:
            hyperparams.update(self._read_trial(self.trial_id))
        dict.update(hyperparams, self.custom_hyperparams or {})

        env_kwargs = {**(hyperparams.get("env_kwargs") or {}), **self.env_kwargs}
        env_kwargs.update(self._frame_skip_once(hyperparams, env_kwargs))
        self.eval_env_kwargs = {**env_kwargs, **(self._eval_env_kwargs_args or {})}
        self.env_kwargs = env_kwargs
        hyperparams.pop("env_kwargs", None)
        if env_kwargs:
            hyperparams["env_kwargs"] = env_kwargs
        self.args.env_kwargs = env_kwargs or None  # saved in args.yml, which rl-zoo3's other commands read
        if self.with_ale:
            self.ale_kwargs = self._ale_kwargs(hyperparams)

        self.saved_hyperparams = {name: copy.deepcopy(hyperparams[name]) for name in sorted(hyperparams)}
        print("Hyperparameters (those being tuned will be overridden):")
        pprint(self.saved_hyperparams)
        return dict(hyperparams), self.saved_hyperparams

    def _read_entry(self) -> Hyperparams:
        """:return: the entry for the environment, or that of the run that goes on"""
        run = Path(self.trained_agent).parent / self.env_name / "config.yml"
        goes_on = self.continue_training and issubclass(ALGOS[self.algo], ValueAlgorithm)
        if goes_on and run.is_file() and not self.conf_file_given and not self.entry:
            print(f"Loading hyperparameters from: {run}")
            return dict(yaml.load(run.read_text(), Loader=yaml.UnsafeLoader))  # as rl-zoo3 writes and reads it
        print(f"Loading hyperparameters from: {self.config}")
        entries = read_entries(self.config)
        env_id = self.env_name.gym_id
        if self.entry is not None:
            if self.entry not in entries:
                raise ValueError(
                    f"entry={self.entry} is not in {self.config}.{nearest(self.entry, entries)} It has {', '.join(entries)}."
                )
            name = self.entry
        else:
            family = "atari" if self._is_atari else "minatar" if env_id.startswith("MinAtar/") else "default"
            found = [name for name in (env_id, family, "default") if name in entries]
            if not found:
                raise ValueError(
                    f"Hyperparameters not found for {self.algo}-{env_id} in {self.config}: add an entry {env_id}."
                )
            name = found[0]
        if name != env_id:
            print(f"Using the entry '{name}'")
        if not isinstance(entries[name], dict):
            raise ValueError(f"Entry {name} of {self.config} is empty: give it hyperparameters.")
        return entries[name]

    def _read_trial(self, trial_id: int) -> Hyperparams:
        """
        :param trial_id: number of a trial
        :return: its hyperparameters
        :raises ValueError: if it cannot be found
        """
        if not (self.storage and self.study_name):
            raise ValueError(f"trial_id={trial_id} needs to know its study: give --storage and --study-name too.")
        trials = self._load_study().get_trials(deepcopy=False)
        if not 0 <= trial_id < len(trials) or not trials[trial_id].params:
            raise ValueError(
                f"trial_id={trial_id} is no trial with parameters of study {self.study_name}, which has {len(trials)} trials: "
                "use the number of one."
            )
        print(f"Loading trial {trial_id} of study {self.study_name}")
        return HYPERPARAMS_CONVERTER[self.algo](trials[trial_id].params)

    def _frame_skip_once(self, hyperparams: Hyperparams, env_kwargs: dict[str, Any]) -> dict[str, Any]:
        """
        :param hyperparams: of the entry
        :param env_kwargs: of the environment
        :return: what ``env_kwargs`` needs so that Atari frames are skipped by SB3's wrapper alone
        """
        if not self._is_atari:
            return {}
        env_id = self.env_name.gym_id
        frameskip = env_kwargs.get("frameskip", gymnasium.spec(env_id).kwargs.get("frameskip", 1))
        skip = 1
        for name, arguments in self._wrappers(hyperparams):
            if name == ATARI_WRAPPER:
                skip = arguments.get("frame_skip", 4)
        if skip == 1 or frameskip == 1:
            return {}
        if "frameskip" in env_kwargs:
            print(f"Warning: {env_id} skips {frameskip} frames and AtariWrapper {skip}: leave frameskip out of env_kwargs.")
            return {}
        print(f"{env_id} skips {frameskip} frames and AtariWrapper {skip}: using frameskip=1, so that only the wrapper does.")
        return {"frameskip": 1}

    def _wrappers(self, hyperparams: Hyperparams) -> list[tuple[str, dict[str, Any]]]:
        """:return: names and arguments of the wrappers of an entry"""
        wrappers = hyperparams.get("env_wrapper") or []
        named = []
        for wrapper in wrappers if isinstance(wrappers, list) else [wrappers]:
            name, arguments = next(iter(wrapper.items())) if isinstance(wrapper, dict) else (wrapper, None)
            named.append((ATARI_WRAPPER if name is AtariWrapper else str(name), arguments or {}))
        return named

    def _ale_kwargs(self, hyperparams: Hyperparams) -> dict[str, Any]:
        """
        :param hyperparams: of the entry
        :return: arguments of AtariVecEnv that stand for the wrappers of the entry
        :raises ValueError: where it does not play the game, or does not do what the wrappers do
        """
        if not self._is_atari:
            raise ValueError(f"--vec-env ale plays Atari games only, not {self.env_name.gym_id}: use dummy or subproc.")
        wrappers = self._wrappers(hyperparams)
        if [name for name, _ in wrappers] != [ATARI_WRAPPER] or hyperparams.get("monitor_kwargs"):
            raise ValueError(
                f"--vec-env ale stands for env_wrapper={ATARI_WRAPPER} alone, without monitor_kwargs, but the entry has "
                f"env_wrapper={[name for name, _ in wrappers]}: change it, or use --vec-env dummy or subproc."
            )
        return {"n_stack": hyperparams.get("frame_stack") or 1, **wrappers[0][1]}

    # Training

    def _preprocess_hyperparams(self, hyperparams: Hyperparams) -> Any:
        processed = super()._preprocess_hyperparams(hyperparams)
        if has_actors(self.algo):
            if self.optimize_hyperparameters:
                raise ValueError(f"algo={self.algo} cannot be tuned: tune it without actors, and train with what was found.")
            self.n_actors = processed[0].setdefault("n_actors", 2)
            self.n_envs *= self.n_actors  # by which callbacks count
        return processed

    def create_callbacks(self) -> None:
        """Create those of rl-zoo3, and what writes the episodes of actors down."""
        super().create_callbacks()
        if has_actors(self.algo):
            self.callbacks.append(MonitorOfActors(self.save_path, self.env_name.gym_id))

    def _load_pretrained_agent(self, hyperparams: Hyperparams, env: VecEnv) -> BaseAlgorithm:
        run = copy.copy(self)
        if issubclass(ALGOS[self.algo], ValueAlgorithm) and not self.seed_given:
            run.seed = None  # type: ignore[assignment]
        model = super(Experiment, run)._load_pretrained_agent(hyperparams, env)
        if not isinstance(model, ValueAlgorithm):
            return model
        left = model._total_timesteps - model.num_timesteps
        if left > 0 and not self.n_timesteps_given:
            self.n_timesteps = left  # of the run that was interrupted
        print(f"Going on after {model.num_timesteps:,} steps, for {self.n_timesteps:,} more")
        if is_checkpoint(self.trained_agent):
            take_checkpoint(model, self.trained_agent, {})
        elif not (Path(self.trained_agent).parent / "replay_buffer.pkl").exists():
            print("Warning: no replay_buffer.pkl beside the agent, so replay starts empty: train with --save-replay-buffer.")
        return model

    def learn(self, model: BaseAlgorithm) -> None:
        """
        :param model: to train; one of this library that was loaded goes on with its schedules and counters
        """
        learner = model
        if self.continue_training and isinstance(model, ValueAlgorithm):
            learner = SimpleNamespace(env=model.env, learn=partial(model.learn, reset_num_timesteps=False))  # type: ignore[assignment]
        super().learn(learner)
        if model.num_timesteps < model._total_timesteps:
            print(f"Interrupted after {model.num_timesteps:,} of {model._total_timesteps:,} steps: -i goes on")

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """
        :param n_envs: how many
        :param eval_env: whether they are for evaluation
        :param no_log: whether the returns of their episodes are not written to files
        :return: environments; those in other processes leave it to the main one to be interrupted
        """
        if has_actors(self.algo) and not (eval_env or no_log):
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
        """:return: as many environments as rl-zoo3 has makers of others for; it seeds them"""
        return AtariVecEnv(
            self.env_name.gym_id,
            len(makers),
            env_kwargs=self.eval_env_kwargs if eval_env else self.env_kwargs,
            monitor_dir=None if eval_env or no_log else self.save_path,
            **self.ale_kwargs,
        )

    # Tuning

    def objective(self, trial: optuna.Trial) -> float:
        """
        :param trial: of hyperparameters
        :return: mean over the seeds of the last evaluation's mean return
        """
        self.study = trial.study
        trial.set_user_attr("seeds", [self.seed + i for i in range(self.n_seeds)])
        scores: list[float] = []
        last_step = 0
        for i in range(self.n_seeds):
            run = copy.copy(self)  # trials may run in several threads
            run.seed = self.seed + i
            run._hyperparams = Mergeable(self._hyperparams)
            set_random_seed(run.seed)
            of_seed = TrialOfSeed(trial, scores, last_step, str(self._hyperparams.get("policy")))
            scores.append(float(super(Experiment, run).objective(of_seed)))  # type: ignore[arg-type]
            last_step = of_seed.last_step
        trial.set_user_attr("scores", scores)
        return float(np.mean(scores))

    def _create_sampler(self, sampler_method: str) -> BaseSampler:
        sampler = super()._create_sampler(sampler_method)
        if self.storage is not None:
            sampler.reseed_rng()  # else each process with the same seed, and one that goes on, proposes the same trials
        return sampler

    def hyperparameters_optimization(self) -> None:
        """
        Run the study, then write its report, the entry of the best trial, and plots.

        :raises ValueError: if no trial was completed
        """
        plots, self.no_optim_plots = not self.no_optim_plots, True  # rl-zoo3 would open a browser
        try:
            super().hyperparameters_optimization()
        except ValueError as error:
            if "No trials are completed" not in str(error):
                raise
            raise ValueError("No trial was completed: use more --n-trials, --pruner none, or see why they failed.") from error
        study = self.study or self._load_study()  # if other processes had done all trials
        env_id = self.env_name.gym_id
        hyperparams = Mergeable(self.saved_hyperparams)
        hyperparams.update(HYPERPARAMS_CONVERTER[self.algo](study.best_trial.params))
        hyperparams["n_timesteps"] = self.n_timesteps
        stem = Path(self.log_path) / f"report_{self.env_name}_{study.study_name}"
        files = write_report(study, stem, self.algo, env_id, self.n_timesteps, hyperparams, plots)
        print("Wrote", *files, sep="\n  ")
        print(f"To train with the best: sb3-distrl train --algo {self.algo} --env {env_id} --conf-file {files[1]}")

    def _load_study(self) -> optuna.Study:
        assert self.storage is not None and self.study_name is not None
        storage: str | BaseStorage = self.storage
        if self.storage.endswith(".log"):
            storage = JournalStorage(JournalFileBackend(self.storage))
        try:
            return optuna.load_study(study_name=self.study_name, storage=storage)
        except KeyError as error:
            raise ValueError(f"study_name={self.study_name} is not in storage={self.storage}: use the name of one.") from error
