import math

import pytest
import torch as th

from sb3_distrl.functional import clipped_mass, cross_entropy, entropy, project_categorical

SUPPORT = th.tensor([-2.0, 0.0, 2.0, 4.0, 6.0])  # spacing 2, not symmetric


def projected_by_loop(target_atoms, probs, support):
    """C51, algorithm 1, one atom at a time; an atom whose floor and ceiling are the same keeps all its mass."""
    v_min, v_max, n_atoms = float(support[0]), float(support[-1]), len(support)
    spacing = (v_max - v_min) / (n_atoms - 1)
    result = []
    for atoms, masses in zip(target_atoms.tolist(), probs.tolist(), strict=True):
        row = [0.0] * n_atoms
        for atom, mass in zip(atoms, masses, strict=True):
            position = (min(max(atom, v_min), v_max) - v_min) / spacing
            position = min(position, n_atoms - 1)  # rounding
            lower, upper = math.floor(position), math.ceil(position)
            if lower == upper:
                row[lower] += mass
            else:
                row[lower] += mass * (upper - position)
                row[upper] += mass * (position - lower)
        result.append(row)
    return th.tensor(result, dtype=target_atoms.dtype)


def test_projection_by_hand():
    atoms = th.tensor([[1.0, 5.5, 2.0], [-2.5, -1.5, 100.0]])
    probs = th.tensor([[0.5, 0.4, 0.1], [0.3, 0.4, 0.3]])
    # 1 lies half-way between 0 and 2; 5.5 three quarters of the way from 4 to 6; -1.5 a quarter of the way from -2 to 0
    expected = th.tensor([[0.0, 0.25, 0.35, 0.1, 0.3], [0.6, 0.1, 0.0, 0.0, 0.3]])
    th.testing.assert_close(project_categorical(atoms, probs, SUPPORT), expected)


@pytest.mark.parametrize("support", [(-10.0, 10.0, 51), (-1.0, 3.5, 4), (0.0, 200.0, 101), (-7.0, -2.0, 2), (-0.3, 0.1, 7)])
@pytest.mark.parametrize("spread", [0.2, 1.0, 20.0])
def test_projection_against_a_loop(support, spread):
    support = th.linspace(*support, dtype=th.float64)
    generator = th.Generator().manual_seed(0)
    width = support[-1] - support[0]
    atoms = support.mean() + spread * width * th.randn(5, 11, generator=generator, dtype=th.float64)
    probs = th.randn(5, 11, generator=generator, dtype=th.float64).softmax(dim=1)
    result = project_categorical(atoms, probs, support)
    assert result.shape == (5, len(support))
    th.testing.assert_close(result, projected_by_loop(atoms, probs, support), rtol=0, atol=1e-12)
    th.testing.assert_close(result.sum(dim=1), th.ones(5, dtype=th.float64))


@pytest.mark.parametrize("support", [(-10.0, 10.0, 51), (-1.0, 3.5, 4), (0.0, 200.0, 101), (-0.3, 0.1, 7)])
def test_projection_keeps_atoms_on_the_support_in_place(support):
    """Where the floor is the ceiling, an index-based projection loses the mass; float32 as in training."""
    support = th.linspace(*support)
    probs = th.randn(3, len(support), generator=th.Generator().manual_seed(1)).softmax(dim=1)
    th.testing.assert_close(project_categorical(support.expand(3, -1), probs, support), probs, rtol=0, atol=2e-6)


def test_projection_keeps_each_atom_alone_in_place():
    for atom in range(5):
        result = project_categorical(SUPPORT[None, atom : atom + 1], th.ones(1, 1), SUPPORT)
        th.testing.assert_close(result, th.eye(5)[None, atom])


@pytest.mark.parametrize(("atom", "end"), [(-2.0, 0), (6.0, 4), (-2.001, 0), (6.001, 4), (-1e6, 0), (1e6, 4)])
def test_projection_keeps_all_mass_at_the_ends(atom, end):
    result = project_categorical(th.full((2, 3), atom), th.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]), SUPPORT)
    th.testing.assert_close(result, th.eye(5)[[end, end]])


def test_projection_of_a_terminal_state_is_that_of_the_reward():
    rewards = th.tensor([[4.0], [1.0], [7.0], [-0.5]])
    bootstrap = th.zeros(4, 1)
    probs = th.randn(4, 5, generator=th.Generator().manual_seed(2)).softmax(dim=1)
    result = project_categorical(rewards + bootstrap * SUPPORT, probs, SUPPORT)
    expected = [[0, 0, 0, 1, 0], [0, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 1], [0.25, 0.75, 0, 0, 0]]
    th.testing.assert_close(result, th.tensor(expected, dtype=th.float32))


def test_projection_keeps_the_mean_where_nothing_is_clipped():
    generator = th.Generator().manual_seed(3)
    atoms = 8 * th.rand(4, 9, generator=generator) - 2
    probs = th.randn(4, 9, generator=generator).softmax(dim=1)
    means = project_categorical(atoms, probs, SUPPORT) @ SUPPORT
    th.testing.assert_close(means, (atoms * probs).sum(dim=1), rtol=0, atol=1e-5)


def test_projection_keeps_the_sum_of_masses_that_are_not_normalised():
    probs = th.tensor([[0.5, 2.0], [0.0, 0.0], [0.25, 0.0]])
    result = project_categorical(th.tensor([[1.0, 9.0], [0.0, 1.0], [3.3, 0.1]]), probs, SUPPORT)
    th.testing.assert_close(result.sum(dim=1), th.tensor([2.5, 0.0, 0.25]))


def test_clipped_mass_by_hand():
    atoms = th.tensor([[-2.1, 0.0, 6.1, 3.0], [-2.0, 6.0, 5.0, 0.0], [7.0, 8.0, -9.0, 60.0]])
    probs = th.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25], [0.4, 0.3, 0.2, 0.1]])
    # The ends themselves are on the support
    th.testing.assert_close(clipped_mass(atoms, probs, SUPPORT), th.tensor([0.4, 0.0, 1.0]))


def test_clipped_mass_is_what_the_projection_moves():
    """With nothing between the ends' neighbours and the ends, the mass that arrives there is the clipped one."""
    atoms = th.tensor([[-5.0, 2.0, 4.0], [0.0, 9.0, 8.0]])
    probs = th.tensor([[0.3, 0.3, 0.4], [0.5, 0.2, 0.3]])
    ends = project_categorical(atoms, probs, SUPPORT)[:, [0, -1]].sum(dim=1)
    th.testing.assert_close(clipped_mass(atoms, probs, SUPPORT), ends)


def test_cross_entropy_by_hand():
    target = th.tensor([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])
    probs = th.tensor([[0.25, 0.5, 0.25], [0.5, 0.125, 0.375]])
    expected = [1.5 * math.log(2), 0.25 * math.log(8) + 0.75 * math.log(8 / 3)]
    th.testing.assert_close(cross_entropy(target, probs.log()), th.tensor(expected))


def test_cross_entropy_of_extreme_logits_is_finite_and_its_gradient_is_prediction_minus_target():
    logits = th.tensor([[1000.0, 0.0, -1000.0, 3.0], [0.1, -0.2, 0.3, 0.0]], requires_grad=True)
    target = th.tensor([[0.0, 0.2, 0.3, 0.5], [0.4, 0.3, 0.2, 0.1]])
    losses = cross_entropy(target, logits.log_softmax(dim=1))
    losses.sum().backward()
    assert losses.shape == (2,)
    assert losses[0].item() == pytest.approx(0.2 * 1000 + 0.3 * 2000 + 0.5 * 997)
    th.testing.assert_close(logits.grad, logits.detach().softmax(dim=1) - target)


def test_entropy_by_hand():
    probs = th.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25] * 4, [0.5, 0.25, 0.125, 0.125]])
    th.testing.assert_close(entropy(probs), math.log(2) * th.tensor([1.0, 0.0, 2.0, 1.75]))


def test_divergence_is_zero_for_equal_distributions_and_positive_for_others():
    probs = th.randn(2, 6, generator=th.Generator().manual_seed(4)).softmax(dim=1)
    th.testing.assert_close(cross_entropy(probs, probs.log()) - entropy(probs), th.zeros(2), rtol=0, atol=1e-6)
    assert (cross_entropy(probs, probs.flip(1).log()) - entropy(probs) > 0.01).all()
