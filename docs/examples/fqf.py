import torch as th
from torch.nn.functional import pad

from sb3_distrl import IQN
from sb3_distrl.common.loss import Loss
from sb3_distrl.functional import MEAN, gather_actions, quantile_huber_loss
from sb3_distrl.iqn import policies
from sb3_distrl.networks import Noise


class FQFNetwork(policies.IQNNetwork):
    """IQN's network with a layer that proposes the fractions; ``n_eval_quantiles`` is how many."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.proposal = th.nn.Linear(self.trunk.out_features, self.n_eval_quantiles)

    def fractions(self, features):
        """:return: tau_0 to tau_N, the midpoints between them, and their distances"""
        probabilities = self.proposal(features.detach()).float().softmax(dim=1)  # [B, N]
        taus = pad(probabilities.cumsum(dim=1), (1, 0))  # [B, N + 1]
        return taus, (taus[:, 1:] + taus[:, :-1]).detach() / 2, probabilities.detach()

    def values_of(self, features, noise=Noise.OFF, risk=MEAN):
        _, midpoints, probabilities = self.fractions(features)
        quantiles, order = self.quantiles(features, midpoints, noise).mT.sort(dim=-1)  # [B, A, N]
        return risk.expectation(quantiles, probabilities[:, None].expand_as(quantiles).gather(2, order))

    def distribution(self, obs):
        features = self.encode(self.preprocess(obs))
        _, midpoints, probabilities = self.fractions(features)
        quantiles = self.quantiles(features, midpoints).mT
        return quantiles, probabilities[:, None].expand_as(quantiles)

    def acting_values(self, obs, deterministic=True, risk=MEAN):
        noise = Noise.OFF if deterministic else Noise.PER_ROW
        return self.values_of(self.encode(self.preprocess(obs), noise), noise, risk)


class FQFPolicy(policies.MlpPolicy):
    network_class = FQFNetwork

    def further_optimizers(self):
        return {"fraction_optimizer": th.optim.RMSprop(self.q_net.proposal.parameters(), lr=2.5e-9, alpha=0.95, eps=1e-5)}


class FQF(IQN):
    """
    Fully parameterized quantile function (Yang et al. 2019, https://arxiv.org/abs/1911.02140, algorithm 1), for double_q=False
    and n_eval_quantiles fractions.
    """

    policy_aliases = {"MlpPolicy": FQFPolicy}  # noqa: RUF012

    def loss(self, batch, bootstrap):
        actions, net, target_net = batch.actions.long().squeeze(1), self.q_net, self.q_net_target
        with self.autocast():
            features = net.encode(batch.observations, Noise.SHARED)
            taus, midpoints, probabilities = net.fractions(features)
            quantiles = gather_actions(net.quantiles(features, midpoints, Noise.SHARED), actions)  # [B, N]
            with th.no_grad():
                next_features = target_net.encode(batch.next_observations, Noise.SHARED)
                next_actions = self.select_actions(target_net.values_of(next_features, Noise.SHARED, self.target_risk))
                next_quantiles = gather_actions(target_net.quantiles(next_features, midpoints, Noise.SHARED), next_actions)
                edges = gather_actions(net.quantiles(features, taus[:, 1:-1], Noise.SHARED), actions)  # [B, N - 1]
        slopes = (2 * edges - quantiles[:, 1:] - quantiles[:, :-1]).detach()  # of the Wasserstein loss by tau_i, proposition 1
        losses = quantile_huber_loss(quantiles, batch.rewards + bootstrap * next_quantiles, midpoints, self.kappa)
        extra = {"fraction_optimizer": (slopes * taus[:, 1:-1]).sum(dim=1).mean()}
        q_values = (quantiles.detach() * probabilities).sum(dim=1)
        return Loss(losses, losses.detach(), q_values, {}, extra)
