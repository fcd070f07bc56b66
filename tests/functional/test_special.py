"""What is put together from ONNX's operators computes what torch computes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch as th

from sb3_distrl.functional import CPW, CVaR, Distortion, Norm, Power, Wang
from sb3_distrl.functional.special import normal_cdf, normal_quantile

P = th.cat([th.tensor([0.0, 1.0]), th.logspace(-36, -0.001, 2000), 1 - th.logspace(-7, -0.3, 2000)])
DISTORTIONS = [CVaR(0.25), CPW(0.3), CPW(), Wang(-0.75), Wang(0.75), Wang(-3), Power(-2), Norm()]


class Calls(th.nn.Module):
    """
    A function as a module.

    :param function: of a tensor
    """

    def __init__(self, function: Callable[[th.Tensor], th.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.function(x)


def by_onnx(function: Callable[[th.Tensor], th.Tensor], x: th.Tensor, folder: Path) -> np.ndarray:
    path = folder / "function.onnx"
    axes = {"x": {0: "size"}, "y": {0: "size"}}
    th.onnx.export(
        Calls(function).eval(), (x[:5],), path, input_names=["x"], output_names=["y"], dynamic_axes=axes, dynamo=False
    )
    return onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})[0]


@pytest.mark.parametrize("distortion", DISTORTIONS, ids=str)
def test_distortions_and_their_inverses(distortion: Distortion, tmp_path: Path) -> None:
    for function in (distortion, distortion.inverse):
        expected = function(P).numpy()
        assert np.allclose(by_onnx(function, P, tmp_path), expected, rtol=0, atol=2e-6)


def test_the_normal_distribution_far_out(tmp_path: Path) -> None:
    inside = P[2:]
    exact = th.special.ndtri(inside.double()).numpy()
    assert np.allclose(by_onnx(normal_quantile, inside, tmp_path), exact, rtol=2e-6, atol=1e-6)
    x = th.linspace(-9, 9, 1001)
    assert np.allclose(by_onnx(normal_cdf, x, tmp_path), th.special.ndtr(x.double()).numpy(), rtol=0, atol=1e-6)
