"""Start Ray or join a cluster, securely and without side effects on this process."""

import logging
import os
import secrets
import shutil
import signal
import stat
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
from ray._raylet import Config  # type: ignore[attr-defined]

AUTH_MODE = "RAY_AUTH_MODE"
TOKEN_FILE = Path("~/.ray/auth_token")  # where `ray get-auth-token --generate` puts it
TOKEN_REMEDY = (
    "copy the head's ~/.ray/auth_token to this machine, or set RAY_AUTH_TOKEN. For a cluster without authentication, which "
    "lets anybody who reaches it run code, set RAY_AUTH_MODE=disabled"
)
OTHERS = stat.S_IRWXG | stat.S_IRWXO  # permissions that a token file should not have
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
REMOVAL_TIMEOUT = 5.0  # seconds; Ray's processes may still write logs


@contextmanager
def connection(address: str | None) -> Iterator[None]:
    """
    Connect to Ray, unless this process is connected already: to the cluster at ``address`` or, if it is ``None``, to a local
    Ray that ends with the context.

    Ray cannot listen on the loopback interface alone. So it requires a token from everybody, advertises a loopback address
    where possible, and runs without dashboard and usage statistics.

    Signal handlers are restored once connected (Ray's would end or abort the process at SIGTERM), environment variables at the
    end. While Ray starts, SIGTERM raises SystemExit.

    :raises ValueError: if there is no token for the cluster, or the cluster cannot be joined with it
    """
    if ray.is_initialized():
        yield
        return
    before, session = dict(os.environ), None
    changed: dict[str, str | None] = {}  # environment variables and their former values
    try:
        try:
            with _same_signal_handlers():
                session = _connect(address)
        finally:
            names = before.keys() | os.environ.keys()
            changed.update({name: before.get(name) for name in names if os.environ.get(name) != before.get(name)})
        yield
    finally:
        with _same_signal_handlers():
            ray.shutdown()
        if session is not None:
            _remove(session)
        _set_environment(changed)


def _connect(address: str | None) -> Path | None:
    """:return: the session folder of a local Ray, or ``None`` for a cluster"""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of pending tasks of failed actors
    if AUTH_MODE not in os.environ:  # without it, Ray tries for 20 seconds and does not mention the token
        _set_environment({AUTH_MODE: "token"})
    if os.environ[AUTH_MODE] == "token":
        _prepare_token(address)
    if address is None:
        loopback = "127.0.0.2" if sys.platform == "linux" else None  # Ray would replace 127.0.0.1
        started = ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, _node_ip_address=loopback)
        return Path(started.address_info["session_dir"])  # type: ignore[attr-defined]
    try:
        ray.init(address=address, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(
            f"ray_address={address} cannot be joined ({error}): check that a head node runs there, with Ray {ray.__version__} "
            f"and this version of Python, and that the token is the head's: {TOKEN_REMEDY}."
        ) from error
    return None


def _set_environment(variables: dict[str, str | None]) -> None:
    """Set environment variables; ``None`` deletes one."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if AUTH_MODE in variables:
        Config.initialize("")  # Ray read the environment when it was imported; it does the same when it starts a cluster


def _prepare_token(address: str | None) -> None:
    """Make sure that there is a token that others cannot read; for a local Ray (no address), create one."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named or TOKEN_FILE).expanduser()
    if path.is_file():
        _keep_private(path)
    elif address is not None:
        raise ValueError(f"ray_address={address} needs a token, and there is none: {TOKEN_REMEDY}.")
    elif not named:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Ray would create one that everybody can read
        with suppress(FileExistsError), open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(secrets.token_hex(32))


def _keep_private(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name != "posix" or not mode & OTHERS:
        return
    try:
        path.chmod(mode & ~OTHERS)
        result = "They could until now"
    except OSError as error:
        result = f"They can, and its permissions cannot be changed ({error})"
    warnings.warn(
        f"{path} holds Ray's token, with which other users of this machine can run code as you if they can read it. {result}: "
        "if there are others, delete it and make a new one with `umask 077; ray get-auth-token --generate`.",
        UserWarning,
    )


@contextmanager
def _same_signal_handlers() -> Iterator[None]:
    """Restore signal handlers set by Python code, in the main thread (others cannot)."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:  # None was not set by Python code
                    signal.signal(number, handler)


def _remove(session: Path) -> None:
    """Remove the session folder of a Ray that has ended."""
    latest, deadline = session.with_name("session_latest"), time.monotonic() + REMOVAL_TIMEOUT
    if latest.is_symlink() and latest.resolve() == session.resolve():
        latest.unlink(missing_ok=True)
    while session.exists() and time.monotonic() < deadline:
        shutil.rmtree(session, ignore_errors=True)
        time.sleep(0.05)


def check_room(n_actors: int, cpus_per_actor: float) -> None:
    """:raises ValueError: if Ray has too few CPUs, so that some actors would wait forever"""
    cpus = ray.cluster_resources().get("CPU", 0.0)
    if n_actors * cpus_per_actor > cpus:
        raise ValueError(
            f"n_actors={n_actors} with cpus_per_actor={cpus_per_actor:g} need {n_actors * cpus_per_actor:g} processors, and "
            f"Ray has {cpus:g}: use n_actors={int(cpus / cpus_per_actor)}, or cpus_per_actor={cpus / n_actors:.2g}, or more "
            "machines."
        )
