"""rl-zoo3 with this library's algorithms: ``sb3-distrl train --algo rainbow --env CartPole-v1``."""


def register() -> None:
    """
    Make rl-zoo3 know ``rainbow``, ``iqn``, this library's ``qrdqn``, the same with actors as ``apex-rainbow`` and so on, their
    hyperparameters and samplers, and MinAtar's games.

    rl-zoo3 has no place for plug-ins. All its modules share the dictionaries that are updated; its ``ExperimentManager`` is
    replaced by :class:`~sb3_distrl.zoo.experiment.Experiment`, which finds this library's files. The command ``sb3-distrl``
    calls it by itself. A file ``custom_envs.py`` in the working directory, which rl-zoo3 imports, that calls it makes
    ``python -m rl_zoo3.train`` and the like work too.

    :raises ImportError: without rl-zoo3: install the extra ``zoo``
    """
    from sb3_distrl.zoo import registration

    registration.register()
