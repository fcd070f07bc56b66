import pytest
import torch as th
from sb3_contrib.common.utils import quantile_huber_loss as sb3_contrib_loss

from sb3_distrl.functional import quantile_huber_loss, quantile_midpoints

B, N, M = 3, 5, 7
KAPPAS = [0.0, 0.5, 1.0, 2.0]


def loss_by_loop(quantiles, targets, taus, kappa):
    """One sample: IQN, equation 3, with Python floats."""
    loss = 0.0
    for quantile, tau in zip(quantiles, taus, strict=True):
        for target in targets:
            error = target - quantile
            if abs(error) <= kappa:
                huber = 0.5 * error**2 / kappa if kappa > 0 else 0.0
            else:
                huber = abs(error) - 0.5 * kappa
            loss += abs(tau - (1.0 if error < 0 else 0.0)) * huber / len(targets)
    return loss


def batch(scale=2.0):
    generator = th.Generator().manual_seed(0)
    quantiles = scale * th.randn(B, N, generator=generator, dtype=th.float64)
    targets = scale * th.randn(B, M, generator=generator, dtype=th.float64)
    taus = th.rand(B, N, generator=generator, dtype=th.float64)
    return quantiles, targets, taus


@pytest.mark.parametrize(("kappa", "expected"), [(0.0, 5.5 / 3), (1.0, 4.25 / 3), (2.0, 3.3125 / 3)])
def test_loss_by_hand(kappa, expected):
    # Errors of the first quantile: -1, 1, 5; of the second: -3, -1, 3
    quantiles, targets, taus = th.tensor([[1.0, 3.0]]), th.tensor([[0.0, 2.0, 6.0]]), th.tensor([0.25, 0.75])
    result = quantile_huber_loss(quantiles, targets, taus, kappa)
    th.testing.assert_close(result, th.tensor([expected]))


@pytest.mark.parametrize("kappa", KAPPAS)
def test_loss_against_a_loop(kappa):
    quantiles, targets, taus = batch()
    result = quantile_huber_loss(quantiles, targets, taus, kappa)
    rows = zip(quantiles.tolist(), targets.tolist(), taus.tolist(), strict=True)
    expected = [loss_by_loop(*row, kappa) for row in rows]
    assert result.shape == (B,)
    th.testing.assert_close(result, th.tensor(expected, dtype=th.float64))


@pytest.mark.parametrize("kappa", KAPPAS)
def test_fractions_may_be_the_same_for_all_samples(kappa):
    quantiles, targets, taus = batch()
    shared = taus[1]
    th.testing.assert_close(
        quantile_huber_loss(quantiles, targets, shared, kappa),
        quantile_huber_loss(quantiles, targets, shared.expand(B, -1), kappa),
    )


@pytest.mark.parametrize("kappa", KAPPAS)
def test_gradient_against_finite_differences(kappa):
    quantiles, targets, taus = batch()
    quantiles.requires_grad_()
    quantile_huber_loss(quantiles, targets, taus, kappa).sum().backward()
    step = 1e-6
    for b in range(B):
        for i in range(N):
            row = quantiles[b].tolist()
            values = []
            for shift in (step, -step):
                moved = [*row[:i], row[i] + shift, *row[i + 1 :]]
                values.append(loss_by_loop(moved, targets[b].tolist(), taus[b].tolist(), kappa))
            assert quantiles.grad[b, i].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-6)


def test_targets_get_no_gradient():
    quantiles, targets, taus = batch()
    quantiles.requires_grad_(), targets.requires_grad_()
    quantile_huber_loss(quantiles, targets, taus).sum().backward()
    assert targets.grad is None


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_parity_with_sb3_contrib(scale):
    """With kappa=1, which is the only one that sb3-contrib has, and the mean over the batch."""
    quantiles, targets, taus = batch(scale)
    expected = sb3_contrib_loss(quantiles, targets, taus[..., None], sum_over_quantiles=True)
    th.testing.assert_close(quantile_huber_loss(quantiles, targets, taus, kappa=1.0).mean(), expected)
    midpoints = quantile_midpoints(N)
    expected = sb3_contrib_loss(quantiles, targets, sum_over_quantiles=True)
    th.testing.assert_close(quantile_huber_loss(quantiles, targets, midpoints).mean(), expected)


def test_kappa_zero_is_the_limit_of_small_kappa():
    quantiles, targets, taus = batch()
    th.testing.assert_close(
        quantile_huber_loss(quantiles, targets, taus, 1e-9), quantile_huber_loss(quantiles, targets, taus, 0.0)
    )


@pytest.mark.parametrize("kappa", [0.0, 1e-3])
def test_minimiser_is_the_empirical_quantile(kappa):
    targets = th.tensor([5.0, -3.0, 0.5, 8.0, 1.25, -1.0, 20.0])
    candidates = th.linspace(-4, 21, 2501)  # steps of 0.01
    for tau in (0.05, 0.2, 0.4, 0.5, 0.7, 0.95):
        losses = quantile_huber_loss(candidates[:, None], targets.expand(2501, -1), th.tensor([tau]), kappa)
        ordered = sorted(targets.tolist())
        quantile = next(x for i, x in enumerate(ordered) if (i + 1) / len(ordered) >= tau)
        assert candidates[losses.argmin()].item() == pytest.approx(quantile, abs=2e-3)


def test_midpoints():
    assert quantile_midpoints(1).tolist() == [0.5]
    assert quantile_midpoints(4).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert quantile_midpoints(200).tolist() == pytest.approx([(2 * i + 1) / 400 for i in range(200)])
    assert quantile_midpoints(3).dtype == th.float32
