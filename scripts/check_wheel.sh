#!/usr/bin/env bash
# Build the wheel, install it into an empty virtual environment, and train from it outside the checkout: first without
# extras, then with those that the command sb3-distrl needs.
# Usage: check_wheel.sh PYTHON ENVIRONMENT
#   PYTHON       an interpreter with pip
#   ENVIRONMENT  folder of the environment, which is made anew; tests/zoo runs the commands of $SB3_DISTRL_PYTHON, if set
set -euo pipefail
python=$1
root=$(cd "$(dirname "$0")/.." && pwd)
environment=$(mkdir -p "$2" && cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/dist" "$root"
"$python" -m venv --clear "$environment"
install=("$environment/bin/python" -m pip install --quiet --constraint "$root/constraints-dev.txt")
wheel=$(echo "$work"/dist/*.whl)
"${install[@]}" "$wheel"
cd "$work"
"$environment/bin/python" - <<'EOF'
from importlib.resources import files

from sb3_distrl import Rainbow

assert (files("sb3_distrl") / "hyperparams" / "rainbow.yml").is_file()
model = Rainbow("MlpPolicy", "CartPole-v1").learn(1000)
print(f"The wheel works: {model.num_timesteps} steps in {__import__('sb3_distrl').__file__}")
EOF
if "$environment/bin/sb3-distrl" train --algo rainbow 2> "$work/error.log"; then
    echo "sb3-distrl train should have asked for the extra zoo"
    exit 1
fi
grep "pip install 'sb3-distrl\[zoo\]'" "$work/error.log"
"${install[@]}" "$wheel[atari,minatar,ray,zoo]" "gymnasium[box2d,classic-control]"
"$environment/bin/sb3-distrl" train --algo rainbow --env CartPole-v1 -n 1000 --verbose 0 | tail -n 1
