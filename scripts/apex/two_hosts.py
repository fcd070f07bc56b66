"""
Ape-X on two hosts, one of which is cut off for a while, loses its power, and comes back.

The hosts are network namespaces of this machine, connected by a virtual cable, with their own addresses and /tmp, and without
access to anything else. Ray's head and the learner run on the first, with one actor on each. Needs Linux, root, iproute2 and
Ray; the hosts are always removed at the end.
"""

import argparse
import contextlib
import datetime
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared import ROOT, processor, versions
from stable_baselines3.common.callbacks import BaseCallback

from sb3_distrl.distributed import ApeXRainbow

RESULTS = Path(__file__).parent / "results"

HOSTS = {"learner": "10.217.0.1", "actor": "10.217.0.2"}
PORT = 6391
PARTITION = 20.0  # seconds
RAY = str(Path(sys.executable).with_name("ray"))


def run(*command: str, check: bool = True) -> None:
    """:param command: whose failure is an error, if ``check``"""
    subprocess.run(command, check=check, stdout=subprocess.DEVNULL, stderr=None if check else subprocess.DEVNULL)


def namespace(host: str) -> str:
    """:return: the name of a host's namespace"""
    return f"apex_{host}"


@contextlib.contextmanager
def hosts() -> Iterator[None]:
    """Two hosts with a cable between them."""
    remove()
    for host in HOSTS:
        run("ip", "netns", "add", namespace(host))
    first, second = (namespace(host) for host in HOSTS)
    run("ip", "link", "add", "cable0", "netns", first, "type", "veth", "peer", "name", "cable1", "netns", second)
    for i, (host, address) in enumerate(HOSTS.items()):
        inside = ("ip", "-n", namespace(host))
        run(*inside, "address", "add", f"{address}/24", "dev", f"cable{i}")
        run(*inside, "link", "set", f"cable{i}", "up")
        run(*inside, "link", "set", "lo", "up")
    try:
        yield
    finally:
        remove()


def remove() -> None:
    """Remove the hosts and everything that runs on them."""
    for host in HOSTS:
        cut_power(host)
        run("ip", "netns", "delete", namespace(host), check=False)


def cut_power(host: str) -> None:
    """:param host: on which all processes are killed"""
    found = subprocess.run(["ip", "netns", "pids", namespace(host)], capture_output=True, text=True).stdout
    for pid in found.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def cable(up: bool) -> None:
    """:param up: whether it is plugged in"""
    run("ip", "-n", namespace("learner"), "link", "set", "cable0", "up" if up else "down")


def on(host: str, *command: str, **variables: str) -> subprocess.Popen:
    """
    :param host: to run on
    :param command: to run, with a /tmp of its own
    :param variables: of the environment
    :return: the process
    """
    private = 'mount -t tmpfs tmpfs /tmp && exec "$@"'
    line = ["ip", "netns", "exec", namespace(host), "unshare", "--mount", "sh", "-c", private, "sh", *command]
    return subprocess.Popen(line, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)


def start_actor_host(variables: dict[str, str]) -> subprocess.Popen:
    """:return: the second host's Ray"""
    address = ["--address", f"{HOSTS['learner']}:{PORT}", "--node-ip-address", HOSTS["actor"]]
    return on("actor", RAY, "start", *address, "--num-cpus", "1", "--block", **variables)


class Timeline(BaseCallback):
    """Prints once a second what each actor has sent so far, how many failed, and the longest time without a block."""

    def __init__(self, stop: Path) -> None:
        super().__init__()
        self.stop, self.shown, self.last, self.longest = stop, 0.0, time.monotonic(), 0.0

    def _on_step(self) -> bool:
        now = time.monotonic()
        self.longest, self.last = max(self.longest, now - self.last), now
        if now - self.shown > 1:
            model: Any = self.model
            sent = model.replay_buffer._added.tolist()
            line = dict(time=time.time(), sent=sent, failures=model._intake.actors.failures, longest=self.longest)
            print(json.dumps({**line, "updates": model._n_updates}), flush=True)
            self.shown, self.longest = now, 0.0
        return not self.stop.exists()


def learn(stop: Path) -> None:
    """:param stop: file that ends the training"""
    model = ApeXRainbow(
        "MlpPolicy",
        "CartPole-v1",
        n_actors=2,
        ray_address=f"{HOSTS['learner']}:{PORT}",
        learning_starts=500,
        buffer_size=1_000_000,
        batch_size=64,
        block_steps=20,
        replay_ratio=0.1,
        hang_timeout=60.0,
        policy_kwargs=dict(net_arch=[64, 64], v_min=0.0, v_max=100.0),
        seed=0,
    )
    while True:
        try:
            model.learn(10**9, callback=Timeline(stop), log_interval=10**9)
            break
        except ValueError as error:  # the second host has not joined yet
            assert "need 2 processors" in str(error)
            time.sleep(2)
    model.replay_buffer.check_valid()  # type: ignore[union-attr]
    print(json.dumps("the replay buffer is valid"), flush=True)


class Watch:
    """
    The learner's timeline.

    :param process: of the learner
    """

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.lines = process, [json.loads(self._line(process))]

    def _line(self, process: subprocess.Popen) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        while line and not line.startswith(("{", '"')):
            line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"The learner ended with {process.wait()}.")
        return line

    def phase(self, seconds: float = 0.0, both: bool = False) -> dict[str, float]:
        """
        :param seconds: to watch for at least
        :param both: watch until both actors have sent 500 transitions in it
        :return: what happened meanwhile
        """
        first, longest = self.lines[-1], 0.0
        while True:
            line = json.loads(self._line(self.process))
            self.lines.append(line)
            longest = max(longest, line["longest"])
            sent = [after - before for before, after in zip(first["sent"], line["sent"], strict=True)]
            elapsed = line["time"] - first["time"]
            if elapsed >= seconds and (not both or min(sent) >= 500):
                break
        updates, failures = (line[name] - first[name] for name in ("updates", "failures"))
        return dict(seconds=elapsed, near=sent[0], far=sent[1], updates=updates, failures=failures,
                    longest=longest)  # fmt: skip


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Ape-X on two hosts, one of which fails.")
    parser.add_argument("--output", type=Path, default=RESULTS / "two_hosts.md")
    parser.add_argument("--learn", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.learn:
        learn(args.learn)
        return
    variables = dict(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1"
    )
    stop = ROOT / "build" / "stop_learning"
    stop.parent.mkdir(exist_ok=True)
    stop.unlink(missing_ok=True)
    phases: dict[str, dict[str, float]] = {}
    with hosts():
        head = ["--head", "--node-ip-address", HOSTS["learner"], "--port", str(PORT), "--include-dashboard", "false"]
        script = (
            f'"{RAY}" start {" ".join(head)} --num-cpus 1 && '
            f'exec "{sys.executable}" -W ignore "{Path(__file__).parent}" two_hosts --learn "{stop}"'
        )
        learner = on("learner", "sh", "-c", script, **variables)
        time.sleep(15)  # until the head answers
        start_actor_host(variables)
        watch = Watch(learner)
        watch.phase(both=True)
        phases["both hosts"] = watch.phase(10.0, both=True)
        cable(up=False)
        phases[f"cut off for {PARTITION:.0f} s"] = watch.phase(PARTITION)
        cable(up=True)
        phases["joined again, until both send"] = watch.phase(both=True)
        phases["both hosts again"] = watch.phase(10.0, both=True)
        cut_power("actor")
        phases["the second host's power is cut"] = watch.phase(30.0)
        start_actor_host(variables)
        phases["it starts again, until both send"] = watch.phase(both=True)
        phases["both hosts in the end"] = watch.phase(10.0, both=True)
        stop.touch()
        rest, _ = learner.communicate(timeout=60)
        assert "the replay buffer is valid" in rest, rest
    stop.unlink()
    rows = [
        f"| {name} | {p['seconds']:.0f} | {p['near']:,.0f} | {p['far']:,.0f} | {p['updates']:,.0f} | {p['failures']:.0f} | "
        f"{p['longest']:.1f} |"
        for name, p in phases.items()
    ]
    text = "\n".join(
        [
            "# Ape-X on two hosts",
            "",
            "Written by `scripts/apex/two_hosts.py`, whose docstring says what is done. CartPole-v1, an actor on each host.",
            "",
            f"- {versions('sb3-distrl', 'stable-baselines3', 'ray', 'torch')}",
            f"- {processor()}, {os.cpu_count()} cores; {datetime.date.today()}",
            "",
            "| phase | s | transitions: near actor | far actor | gradient steps | failures | longest s without a block |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
            "After all this the replay buffer is valid (`check_valid`), and training was never interrupted.",
            "",
        ]
    )
    args.output.write_text(text)
    print(text)
