"""rl-zoo3 with this library's algorithms: ``sb3-distrl train --algo rainbow --env CartPole-v1``."""


def register() -> None:
    """
    Register with rl-zoo3 this library's algorithms (``rainbow``, ``iqn``, ``qrdqn``, and the same with the prefix ``apex-``),
    their hyperparameters and samplers, and MinAtar's games.

    rl-zoo3 has no plug-in interface: this updates the dictionaries that its modules share, and replaces its
    ``ExperimentManager`` by :class:`~sb3_distrl.zoo.experiment.Experiment`, which finds this library's files. The command
    ``sb3-distrl`` calls it. For ``python -m rl_zoo3.train`` and the like, call it in a file ``custom_envs.py`` in the working
    directory, which rl-zoo3 imports.

    :raises ImportError: if rl-zoo3 is not installed: install the extra ``zoo``
    """
    from sb3_distrl.zoo import registration

    registration.register()
