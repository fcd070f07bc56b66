#!/usr/bin/env bash
# Build the wheel, install it into an empty virtual environment, and train from it outside the checkout.
# Usage: check_wheel.sh PYTHON, an interpreter with the `build` package
set -euo pipefail
python=$1
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m build --wheel --outdir "$work/dist" "$root" > "$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --constraint "$root/constraints-dev.txt" "$work"/dist/*.whl
cd "$work"
"$work/venv/bin/python" - <<'EOF'
from importlib.resources import files

from sb3_distrl import Rainbow

assert (files("sb3_distrl") / "hyperparams" / "rainbow.yml").is_file()
model = Rainbow("MlpPolicy", "CartPole-v1").learn(1000)
print(f"The wheel works: {model.num_timesteps} steps in {__import__('sb3_distrl').__file__}")
EOF
