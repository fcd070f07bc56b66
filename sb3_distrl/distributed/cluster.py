"""Starting Ray, or joining a cluster, without doing harm to either."""

import logging
import os
import sys
from pathlib import Path

import ray
from ray._raylet import Config  # type: ignore[attr-defined]

TOKEN_FILE = Path("~/.ray/auth_token")  # where `ray get-auth-token --generate` puts it
TOKEN_REMEDY = (
    "copy the head's ~/.ray/auth_token to this machine, or set RAY_AUTH_TOKEN. For a cluster without authentication, which "
    "lets anybody who reaches it run code, set RAY_AUTH_MODE=disabled"
)


def join(address: str | None) -> bool:
    """
    Make sure that this process is connected to Ray: to what it is connected to already; else to the cluster at ``address``;
    else to a Ray of its own, which ends with the process.

    Ray has no way to listen on the loopback interface alone: its processes ask everybody for a token, and advertise a loopback
    address where that is allowed; there is no dashboard, and nothing is reported to Ray's makers.

    :param address: of a cluster, or ``None``
    :return: whether it was connected here, and so should be shut down by the caller
    :raises ValueError: if there is no token for the cluster, or it cannot be reached with it
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of what was asked of an actor that has failed already
    if "RAY_AUTH_MODE" not in os.environ:  # without it, Ray tries for 20 seconds and does not say what it lacks
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # as Ray itself does where it starts a cluster; it read the environment when it was imported
    if address is None:
        loopback = "127.0.0.2" if sys.platform == "linux" else None  # 127.0.0.1 would be replaced
        ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, _node_ip_address=loopback)
        return True
    if os.environ["RAY_AUTH_MODE"] == "token" and not _has_token():
        raise ValueError(f"ray_address={address} needs a token, and there is none: {TOKEN_REMEDY}.")
    try:
        ray.init(address=address, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(
            f"ray_address={address} cannot be joined ({error}): see whether a head runs there, with Ray {ray.__version__} and "
            f"this Python, and whether the token is the head's: {TOKEN_REMEDY}."
        ) from error
    return True


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(named or TOKEN_FILE).expanduser().is_file()


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
