"""Blind Cliffwalk (Schaul et al. 2016, section 3.1): the script's ground truth, its memory, and its claim at a small size."""

import numpy as np
import pytest
from replay import blind_cliffwalk as cliffwalk


def test_true_q_of_three_states():
    # gamma = 2/3; the right actions are 0, 1, 0, and the reward of 1 is 3, 2, 1 steps away
    np.testing.assert_allclose(cliffwalk.true_q(3), [[4 / 9, 0], [0, 2 / 3], [1, 0]], rtol=1e-12)


@pytest.mark.parametrize("n", [3, 8])
def test_memory_holds_all_sequences_and_one_reward(n):
    buffer = cliffwalk.fill_memory(n, 0.6, np.random.default_rng(0))
    assert buffer.size() == buffer.buffer_size == 2 ** (n + 1) - 2
    states, actions, dones = buffer.observations.ravel(), buffer.actions.ravel(), buffer.dones.ravel()
    (rewarded,) = np.flatnonzero(buffer.rewards)
    assert (states[rewarded], actions[rewarded], dones[rewarded]) == (n - 1, (n - 1) % 2, 1)
    assert buffer.rewards.sum() == 1
    # State s is met by the 2^(n - s) sequences that begin with s right actions, half of which go on
    for state in range(n):
        for action in (0, 1):
            here = (states == state) & (actions == action)
            assert here.sum() == 2 ** (n - state - 1)
            assert (dones[here] == (action != state % 2 or state == n - 1)).all()
    assert not buffer.timeouts.any()
    # New transitions all have the same, largest priority
    assert (buffer.tree[np.arange(buffer.size())] == 1).all()


@pytest.mark.parametrize("linear", [True, False])
def test_uniform_replay_in_blocks_converges(linear):
    # Blocks of three. 10 seeds need 7 to 13 updates per stored transition with the bias feature, 9 to 20 without it
    assert 4 * 510 < cliffwalk.count_updates(8, 0.0, seed=0, linear=linear) < 30 * 510


def test_prioritized_needs_fewer_updates_and_more_so_with_more_states():
    small, large = cliffwalk.compare(4, seeds=3), cliffwalk.compare(8, seeds=3)
    # 10 seeds give factors of about 1.8 and 3.1, and at n = 8 the slowest prioritized run beats the fastest uniform one
    assert 1 < small.factor < large.factor
    assert large.factor > 2
    assert max(large.prioritized) < min(large.uniform)


def test_script_writes_the_table(tmp_path, capsys):
    output = tmp_path / "results" / "table.md"
    cliffwalk.main(["--sizes", "2", "3", "--seeds", "2", "--output", str(output)])
    text = output.read_text()
    rows = [line for line in text.splitlines() if line.startswith(("| 2 | 6 |", "| 3 | 14 |"))]
    assert len(rows) == 2
    printed = capsys.readouterr().out
    assert all(row in printed for row in rows)
    assert "sb3_distrl" in text and "n = 3, prioritized: [" in text
