"""What type checkers say of users' code. mypy reads this file and nothing runs it: what it misses is an unused ignore."""

# mypy: warn-unused-ignores

from typing_extensions import assert_type

from sb3_distrl import IQN
from sb3_distrl.functional import CVaR, Distortion

model = IQN("MlpPolicy", "CartPole-v1", risk="cvar:0.25")
assert_type(model.risk, Distortion)
assert_type(model.bootstrap_risk, Distortion | None)
model.risk = "cvar:0.25"
model.risk = CVaR(0.25)
model.risk = 3  # type: ignore[assignment]
model.risk = None  # type: ignore[assignment]
model.bootstrap_risk = "mean"
model.bootstrap_risk = None
model.bootstrap_risk = 3  # type: ignore[assignment]
