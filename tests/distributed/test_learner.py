"""A learner with actors in its own process: counting as SB3 does, callbacks, the ratio, saving, going on, and mistakes."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_distrl import Rainbow
from sb3_distrl.common.callbacks import RollingCheckpointCallback, latest_checkpoint
from sb3_distrl.distributed import ApeXIQN, ApeXQRDQN, ApeXRainbow
from sb3_distrl.distributed.collectors import Collector
from tests.common.envs import make_env
from tests.common.settings import record
from tests.distributed.models import CLASSES, SMALL, digest, make_model


class Counting(BaseCallback):
    """Counts what SB3 calls, and keeps what it shows."""

    def __init__(self):
        super().__init__()
        self.steps, self.dones, self.returns, self.ratios = [], 0, [], []

    def _on_step(self):
        self.steps.append(self.num_timesteps)
        for name in ("rewards", "dones", "infos"):
            assert len(self.locals[name]) == self.training_env.num_envs
        self.dones += int(np.sum(self.locals["dones"]))
        self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True


@pytest.mark.parametrize("cls", CLASSES)
def test_learns_and_counts_like_the_algorithm_without_actors(cls):
    """Vectorised steps, updates of the target network, gradient steps, episodes: as SB3 with as many environments."""
    model = make_model(cls, envs_per_actor=2)
    counting = Counting()
    before = digest(model)
    model.learn(400, callback=counting, log_interval=1000)
    assert counting.steps == list(range(4, 401, 4)) and model._n_calls == 100
    assert model._n_updates == (400 - 60) * 0.25 and model.steps_due() == 0
    assert model._episode_num == counting.dones == len(counting.returns) == len(model.ep_info_buffer) > 10
    assert digest(model) != before and model._intake is None
    assert model.replay_buffer._added.sum() == 400
    model.replay_buffer.check_valid()


def test_the_ratio_is_that_without_actors():
    kwargs = dict(replay_ratio=None)
    assert make_model(**kwargs).replay_ratio == 0.25  # Rainbow's train_freq is 4
    assert make_model(train_freq=8, gradient_steps=2, **kwargs).replay_ratio == 0.25
    assert make_model(gradient_steps=-1, **kwargs).replay_ratio == 1.0
    with pytest.raises(ValueError, match=r"train_freq=.*cannot be used with actors"):
        make_model(train_freq=(1, "episode"), **kwargs)


@pytest.mark.parametrize("synchronous", [True, False])
def test_the_same_seed_learns_the_same(synchronous):
    digests = []
    for seed in (3, 3, 4):
        model = make_model(seed=seed, synchronous=synchronous)
        model.learn(200)
        digests.append(digest(model))
    assert digests[0] == digests[1] != digests[2]


class Eager(Collector):
    """Actors that always have a block ready; it notes when it was asked, and how many gradient steps were due then."""

    def __init__(self, model, actors):
        self.model, self.actors, self.asked, self.published = model, actors, [], []
        super().__init__(actors.spec, actors.n_actors, actors.weights, False)

    def gather(self, wait):
        self.asked.append((wait, self.model._gradient_steps_due))
        return self.actors.gather(wait=True)

    def _send(self, weights):
        self.published.append(weights.version)
        self.actors.publish(weights)

    def close(self):
        self.actors.close()


def test_actors_that_are_ahead_wait_and_so_does_a_learner_that_is(monkeypatch):
    """Actors always have something ready here: it is taken only up to the tolerance, and waited for where nothing is due."""
    model = make_model(tolerance=20, weights_interval=3, replay_ratio=2.0)
    start, collectors = model._start_actors, []

    def start_eager():
        collectors.append(Eager(model, start()))
        return collectors[0]

    monkeypatch.setattr(model, "_start_actors", start_eager)
    model.learn(300)
    (eager,) = collectors
    due = np.array([steps for _, steps in eager.asked])
    assert due.max() <= 20 * 2 and (due > 3).any()  # transitions ahead, times the ratio
    assert all(wait == (steps < 1) for wait, steps in eager.asked)
    assert model._n_updates == (300 - 60) * 2
    assert np.diff(eager.published).min() >= 3 and len(eager.published) > 40


def test_too_few_steps_to_learn_from():
    model = make_model()
    with pytest.warns(
        UserWarning, match=r"^learn\(total_timesteps=40\) ended without a gradient step, as learning_starts=60 "
    ):
        model.learn(40)
    assert model._n_updates == 0


def test_logs():
    model = make_model(envs_per_actor=2)
    recorder = record(model)
    model.learn(600, log_interval=1)
    values = {name: value for line in recorder.lines for name, value in line.items()}
    assert values["apex/replay_ratio"] == pytest.approx(0.25, abs=0.05) and values["apex/failures"] == 0
    assert 0 <= values["apex/staleness"] <= 60 and values["apex/bytes_per_transition"] > 4 * 4
    assert values["rollout/exploration_rate"] == pytest.approx(np.mean([0.4 ** (1 + 7 * i / 3) for i in range(4)]))
    assert model.exploration_rate == pytest.approx(0.4**8)
    assert {"rollout/ep_rew_mean", "train/loss", "train/beta"} <= values.keys()


def test_one_environment_explores_as_predict_and_the_log_say(tmp_path):
    """With the epsilon in the middle of the ladder; with others, or another ladder, when it is loaded so."""
    model = make_model(ApeXIQN, n_actors=1)
    assert model.exploration_rate == pytest.approx(0.4**4.5)
    recorder, rates = record(model), Rates()
    model.learn(200, callback=rates, log_interval=1)
    assert rates.of_actors == [[model.exploration_rate]] and model.exploration_rate == pytest.approx(0.4**4.5)
    assert {line["rollout/exploration_rate"] for line in recorder.lines} == {model.exploration_rate}
    model.save(tmp_path / "model")
    assert ApeXIQN.load(tmp_path / "model").exploration_rate == model.exploration_rate
    more = ApeXIQN.load(tmp_path / "model", env="CartPole-v1", n_actors=3, actor_epsilon=0.5)
    assert more.exploration_rate == pytest.approx(0.5**8)
    more.learn(60)
    assert more.exploration_rate == pytest.approx(0.5**8)


class Rates(BaseCallback):
    """Looks at the epsilons that actors have."""

    def _on_step(self):
        self.of_actors = [worker.model.exploration_rate.tolist() for worker in self.model._intake.actors.workers]
        return True


@pytest.mark.parametrize("kind", ["box", "dict"])
def test_first_observations_are_true_ones(kind):
    """As callbacks look at them before the first step."""
    model = make_model(env=make_env(kind, env_id=5), policy="MultiInputPolicy" if kind == "dict" else "MlpPolicy", n_actors=3)
    obs, actor = model.env.reset(), model.env.make().reset()
    for key in obs if kind == "dict" else [...]:
        assert obs[key].dtype == actor[key].dtype and obs[key].any()
        assert np.array_equal(obs[key], np.concatenate([actor[key]] * 3))


def test_first_observations_follow_the_seed():
    first = [make_model(seed=seed).env.reset()[0].tolist() for seed in (3, 3, 4)]
    assert first[0] == first[1] != first[2]


def test_callbacks_of_sb3(tmp_path, recwarn):
    """Evaluation at vectorised steps, checkpoints, a limit of episodes; no warning of theirs about the environment."""
    model = make_model()
    evaluation = EvalCallback(make_vec_env("CartPole-v1", 1), eval_freq=50, n_eval_episodes=1, verbose=0)
    checkpoint = CheckpointCallback(100, str(tmp_path), save_replay_buffer=True)
    model.learn(400, callback=[evaluation, checkpoint])
    assert evaluation.evaluations_timesteps == [] and evaluation.n_calls == 200 and evaluation.last_mean_reward > 0
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == ["rl_model_200_steps.zip", "rl_model_400_steps.zip"]
    assert not [warning for warning in recwarn if "same type" in str(warning.message)]
    stopped = make_model(envs_per_actor=2)
    stopping = StopTrainingOnMaxEpisodes(4)  # in each of 4 environments
    stopped.learn(10_000, callback=stopping)
    assert stopped._episode_num == len(stopped.ep_info_buffer) == stopping.n_episodes >= 16
    assert stopped.num_timesteps == 4 * stopped._n_calls == 4 * stopping.n_calls < 2000


def test_goes_on_from_a_checkpoint(tmp_path):
    """Counters, priorities and streams go on, new episodes start, and the actors' seeds are others than before."""
    model = make_model(seed=2)
    model.learn(200, callback=RollingCheckpointCallback(100, tmp_path))
    path = latest_checkpoint(tmp_path)
    loaded = ApeXRainbow.load_checkpoint(path, "CartPole-v1")
    assert loaded.num_timesteps == 200 and loaded.n_actors == 2 and loaded._n_updates == model._n_updates
    assert digest(loaded) == digest(model) and loaded.replay_buffer._added.tolist() == [100, 100]
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded.num_timesteps == 300 and loaded._n_updates == 60
    buffer = loaded.replay_buffer
    buffer.check_valid()
    assert (buffer._dones | buffer.timeouts)[99].all()
    assert buffer.observations[100:130].tobytes() != buffer.observations[:30].tobytes()


def test_saves_loads_and_plays(tmp_path):
    model = make_model(ApeXIQN, envs_per_actor=2)
    model.learn(200)
    model.save(tmp_path / "model")
    playing = ApeXIQN.load(tmp_path / "model")
    assert evaluate_policy(playing, make_vec_env("CartPole-v1"), 2)[0] > 0
    obs = np.zeros((3, 4), np.float32)
    assert np.array_equal(playing.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    more = ApeXIQN.load(tmp_path / "model", env="CartPole-v1", n_actors=3)
    assert more.n_envs == 6 and more.num_timesteps == 200
    more.learn(60, reset_num_timesteps=False)
    assert more.num_timesteps == 260
    more.set_env(lambda: gymnasium.make("CartPole-v1"))
    more.learn(60, reset_num_timesteps=False)
    Rainbow("MlpPolicy", "CartPole-v1").save(tmp_path / "rainbow")
    with pytest.raises(ValueError, match="saved by an algorithm without actors"):
        ApeXRainbow.load(tmp_path / "rainbow", env="CartPole-v1")


@pytest.mark.parametrize("kind", ["dict", "image"])
def test_other_observations(kind):
    policy = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}[kind]
    model = make_model(ApeXQRDQN, env=make_env(kind), policy=policy, policy_kwargs=dict(n_quantiles=5))
    model.learn(100)
    assert model._n_updates == 10
    model.replay_buffer.check_valid()


def test_what_is_not_prioritized_sends_no_priorities():
    model = make_model(prioritized=False)
    model.learn(100)
    assert model.replay_buffer.max_priority == 1.0 and model._n_updates == 10


def test_weights_that_are_not_finite_are_not_sent():
    model = make_model(weights_interval=1, prioritized=False)

    class Diverge(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 100:
                with th.no_grad():
                    next(self.model.q_net.parameters()).fill_(float("nan"))
            return True

    with pytest.raises(ValueError, match=r"^loss=nan is not finite in gradient step .*, as the weights are not finite"):
        model.learn(300, callback=Diverge())
    assert model._intake is None
    with pytest.raises(ValueError, match=r"not finite after .* gradient steps, so they are not sent to actors"):
        model.learn(300)
    assert model._intake is None


class Stuck(gymnasium.Wrapper):
    """Some of them cannot be closed."""

    closed = 0

    def close(self):
        Stuck.closed += 1
        if Stuck.closed == 3:
            raise RuntimeError("the simulator does not answer")


def test_environments_that_cannot_be_closed():
    """The error is raised, after all have been closed, and the next learn() has actors of its own."""
    model = make_model(env=lambda: Stuck(gymnasium.make("CartPole-v1")), n_actors=3)
    Stuck.closed = 0
    with pytest.raises(RuntimeError, match="does not answer"):
        model.learn(60)
    assert model._intake is None and Stuck.closed == 4  # with the one that the first observations are of
    model.learn(60)
    assert model.num_timesteps == 60 and Stuck.closed == 8


def test_older_weights_are_not_published():
    model = make_model()
    model._setup_learn(100)
    actors = model._start_actors()
    actors.publish(actors.weights._replace(version=5))
    actors.publish(actors.weights._replace(version=5))
    with pytest.raises(ValueError, match="version=4 of weights is older than 5"):
        actors.publish(actors.weights._replace(version=4))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(n_actors=0), "n_actors=0 must be at least 1"),
        (dict(envs_per_actor=0), "envs_per_actor=0 must be at least 1"),
        (dict(block_steps=0), "block_steps=0 must be at least 1"),
        (dict(weights_interval=0), "weights_interval=0 must be at least 1"),
        (dict(tolerance=-1), "tolerance=-1 must be at least 0"),
        (dict(actor_epsilon=2.0), r"actor_epsilon=2.0 must be in \[0, 1\]"),
        (dict(actor_epsilon_alpha=-1.0), "actor_epsilon_alpha=-1.0 must be at least 0"),
        (dict(collector="rya"), "collector='rya' is unknown: use one of ray, local"),
        (dict(max_failures=-1), "max_failures=-1 must be at least 0"),
        (dict(hang_timeout=0), "hang_timeout=0 must be positive"),
        (dict(stall_timeout=-1), "stall_timeout=-1 must be positive"),
        (dict(buffer_size=15), "buffer_size=15 must be at least 20"),
        (dict(exploration_fraction=0.1), "exploration_fraction=0.1 has no effect on actors: use actor_epsilon"),
        (dict(overlap=True), "overlap=True has no effect on actors"),
        (dict(env=gymnasium.make("CartPole-v1")), "cannot be made by each actor"),
        (dict(replay_ratio=-1.0), "replay_ratio=-1.0 must be positive"),
    ],
)
def test_mistakes(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_model(**kwargs)


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # as if it were not installed
import sb3_distrl
from sb3_distrl.distributed import ApeXRainbow
try:
    ApeXRainbow("MlpPolicy", "CartPole-v1")
except ImportError as error:
    print(error)
ApeXRainbow("MlpPolicy", "CartPole-v1", collector="local", n_actors=1, learning_starts=10, buffer_size=1000).learn(60)
print("learned")
"""


@pytest.mark.slow
def test_without_ray():
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", WITHOUT_RAY], capture_output=True, text=True)
    assert run.stdout.splitlines() == [
        "Ray is not installed: pip install 'sb3-distrl[ray]', or use collector='local'.",
        "learned",
    ], run.stderr
    assert "collector" in SMALL


def test_load_refuses_what_has_no_effect(tmp_path):
    make_model().save(tmp_path / "model")
    for name, value in (("overlap", True), ("exploration_final_eps", 0.3)):
        with pytest.raises(ValueError, match=f"{name}={value} has no effect on actors"):
            ApeXRainbow.load(tmp_path / "model", **{name: value})
