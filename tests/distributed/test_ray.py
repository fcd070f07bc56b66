"""Actors in processes of a real Ray: learning, and Ray itself. Faults are in test_ray_faults.py."""

import os

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env

from sb3_distrl.distributed import ApeXIQN, ApeXRainbow
from tests.distributed.envs import MESSAGE, Telling
from tests.distributed.models import NETWORKS, digest, make_model

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("running"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
]


def test_synchronous_actors_learn_to_the_bit_what_they_learn_in_one_process():
    digests = []
    for collector in ("local", "ray"):
        model = make_model(ApeXIQN, envs_per_actor=2, collector=collector, synchronous=True)
        model.learn(300)
        digests.append((digest(model), model._n_updates, model._episode_num, model.replay_buffer.tree.groups.sum()))
    assert digests[0] == digests[1]
    assert ray.is_initialized(), "a Ray that was not started by us was shut down"


def test_a_subclass_that_cannot_be_imported_has_actors_of_its_own():
    """As one of __main__; their priorities are those of its loss."""

    class Constant(ApeXRainbow):
        def loss(self, batch, bootstrap):
            loss = super().loss(batch, bootstrap)
            return loss._replace(priorities=th.full_like(loss.priorities, 7.0))

    NETWORKS[Constant] = NETWORKS[ApeXRainbow]
    digests = []
    for collector in ("local", "ray"):
        model = make_model(Constant, collector=collector, synchronous=True)
        model.learn(100)
        digests.append((digest(model), model.replay_buffer.tree.groups.sum()))
        assert model.replay_buffer.max_priority == pytest.approx(7.0)
    assert digests[0] == digests[1]


def test_learns_cartpole():
    """To 475, with two actors that run beside the learner."""
    model = ApeXRainbow(
        "MlpPolicy",
        "CartPole-v1",
        envs_per_actor=2,
        learning_rate=2e-3,
        learning_starts=1000,
        buffer_size=50_000,
        batch_size=64,
        replay_ratio=0.5,
        target_update_interval=128,
        block_steps=32,
        weights_interval=20,
        policy_kwargs=dict(net_arch=[128, 128], v_min=0.0, v_max=100.0, optimizer_kwargs=dict(eps=1e-8)),
        seed=1,
        device="cpu",
    )
    solved = StopTrainingOnRewardThreshold(475)
    evaluation = EvalCallback(
        make_vec_env("CartPole-v1", 5, seed=9), callback_on_new_best=solved, eval_freq=500, n_eval_episodes=10, verbose=0
    )
    model.learn(60_000, callback=evaluation)
    assert evaluation.best_mean_reward >= 475
    assert model._n_updates == pytest.approx(0.5 * (model.num_timesteps - 1000), abs=150)
    assert (model.replay_buffer._added > 1000).all()


class LongAgo(BaseCallback):
    """Makes believe that actors were last heard of long ago, as if the learner had taken all this time for itself."""

    failures = 0

    def _on_rollout_start(self):
        for actor in self.model._intake.actors.actors if self.model._intake else []:
            actor.heard = actor.heard and actor.heard - 1000

    def _on_step(self):
        self.failures = self.model._intake.actors.failures
        return True


def test_synchronous_actors_are_not_to_blame_before_they_are_asked():
    long_ago = LongAgo()
    make_model(collector="ray", synchronous=True, hang_timeout=300.0).learn(300, callback=long_ago)
    assert long_ago.failures == 0


def test_environments_are_closed(tmp_path, caplog, monkeypatch):
    """By their actors, even if it fails, about which the log says something."""
    monkeypatch.setattr("sb3_distrl.distributed.ray_collector.CLOSE_TIMEOUT", 120.0)  # of a busy machine
    model = make_model(env=Telling.maker(tmp_path, process=os.getpid()), collector="ray", synchronous=True)
    model.learn(40)
    assert model._intake is None
    assert len({*os.listdir(tmp_path)} - {f"closed by {os.getpid()}"}) == 2
    for actor in range(2):
        assert f"Actor {actor} could not close its environments" in caplog.text and MESSAGE in caplog.text


class Tolerated(BaseCallback):
    """Looks at how many failures are tolerated."""

    def _on_step(self):
        self.max_failures = self.model._intake.actors.max_failures
        return True


def test_more_actors_than_fit():
    cpus = int(ray.cluster_resources()["CPU"])
    model = make_model(n_actors=cpus + 2, collector="ray", buffer_size=5000)
    with pytest.raises(ValueError, match=f"n_actors={cpus + 2} with cpus_per_actor=1 need {cpus + 2} processors"):
        model.learn(100)
    model = make_model(n_actors=cpus + 1, collector="ray", buffer_size=5000, cpus_per_actor=0.25)
    tolerated = Tolerated()
    model.learn(200, callback=tolerated)
    assert model.num_timesteps >= 200
    assert tolerated.max_failures == max(5, 2 * (cpus + 1)), "more actors fail more often"


class Pauses(LongAgo):
    """Makes believe that before each look at what actors have sent the learner did something else for long."""

    def _on_rollout_start(self):
        super()._on_rollout_start()
        if self.model._intake:
            collector = self.model._intake.actors
            collector.looked -= 1000
            collector.last_block -= 1000


def test_a_learner_that_pauses_does_not_blame_the_actors():
    """As it does for a long evaluation."""
    model = make_model(collector="ray", hang_timeout=300.0, stall_timeout=600.0, max_failures=0)
    model.learn(400, callback=Pauses())
    assert model.num_timesteps == 400
