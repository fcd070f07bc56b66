"""Starting Ray, or joining a cluster, without doing harm to either, or to the process that does so."""

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
OTHERS = stat.S_IRWXG | stat.S_IRWXO  # permissions that the file of a token should not give
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
REMOVAL_TIMEOUT = 5.0  # seconds in which Ray's processes may still write logs


@contextmanager
def connection(address: str | None) -> Iterator[None]:
    """
    Connect this process to Ray: if it is not connected already, to the cluster at ``address``, or else to a Ray of its own,
    which ends with the context.

    Ray has no way to listen on the loopback interface alone: its processes ask everybody for a token, and advertise a loopback
    address where that is allowed; there is no dashboard, and nothing is reported to Ray's makers.

    What Ray changes in this process is put back: handlers of signals as soon as it is connected, as Ray's would end or abort
    the process at SIGTERM, and environment variables at the end. While Ray starts, SIGTERM raises SystemExit.

    :param address: of a cluster, or ``None``
    :raises ValueError: if there is no token for the cluster, or it cannot be reached with it
    """
    if ray.is_initialized():
        yield
        return
    before, session = dict(os.environ), None
    changed: dict[str, str | None] = {}  # environment variables, with their values before
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
    """
    :param address: of a cluster, or ``None``
    :return: folder of the Ray that was started, if one was
    :raises ValueError: if there is no token for the cluster, or it cannot be reached with it
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of what was asked of an actor that has failed already
    if AUTH_MODE not in os.environ:  # without it, Ray tries for 20 seconds and does not say what it lacks
        _set_environment({AUTH_MODE: "token"})
    if os.environ[AUTH_MODE] == "token":
        _prepare_token(address)
    if address is None:
        loopback = "127.0.0.2" if sys.platform == "linux" else None  # 127.0.0.1 would be replaced
        started = ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, _node_ip_address=loopback)
        return Path(started.address_info["session_dir"])  # type: ignore[attr-defined]
    try:
        ray.init(address=address, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(
            f"ray_address={address} cannot be joined ({error}): see whether a head runs there, with Ray {ray.__version__} and "
            f"this Python, and whether the token is the head's: {TOKEN_REMEDY}."
        ) from error
    return None


def _set_environment(variables: dict[str, str | None]) -> None:
    """:param variables: to set, or, if they are ``None``, to delete"""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if AUTH_MODE in variables:
        Config.initialize("")  # as Ray itself does where it starts a cluster; it read the environment when it was imported


def _prepare_token(address: str | None) -> None:
    """
    See to it that there is a token, and that others cannot read it.

    :param address: of a cluster, or ``None`` for a Ray that is to be started, for which a token can be made
    :raises ValueError: if there is none for the cluster
    """
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
        # Ray would make one that all can read
        with suppress(FileExistsError), open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(secrets.token_hex(32))


def _keep_private(path: Path) -> None:
    """:param path: of a token"""
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
        "if there are others, make a new one with `umask 077; ray get-auth-token --generate`, after deleting it.",
        UserWarning,
    )


@contextmanager
def _same_signal_handlers() -> Iterator[None]:
    """Signals are handled as before by what Python code has set, which only the main thread can do."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:  # which was not set by Python code
                    signal.signal(number, handler)


def _remove(session: Path) -> None:
    """:param session: folder of a Ray that has ended"""
    latest, deadline = session.with_name("session_latest"), time.monotonic() + REMOVAL_TIMEOUT
    if latest.is_symlink() and latest.resolve() == session.resolve():
        latest.unlink(missing_ok=True)
    while session.exists() and time.monotonic() < deadline:
        shutil.rmtree(session, ignore_errors=True)
        time.sleep(0.05)


def check_room(n_actors: int, cpus_per_actor: float) -> None:
    """
    :param n_actors: number of actors
    :param cpus_per_actor: processors that each of them takes
    :raises ValueError: if they do not all fit, so that some would wait for ever
    """
    cpus = ray.cluster_resources().get("CPU", 0.0)
    if n_actors * cpus_per_actor > cpus:
        raise ValueError(
            f"n_actors={n_actors} with cpus_per_actor={cpus_per_actor:g} need {n_actors * cpus_per_actor:g} processors, and "
            f"Ray has {cpus:g}: use n_actors={int(cpus / cpus_per_actor)}, or cpus_per_actor={cpus / n_actors:.2g}, or more "
            "machines."
        )
