import torch as th
from torch.nn.functional import log_softmax

from sb3_distrl import IQN
from sb3_distrl.networks import Noise


class MunchausenIQN(IQN):
    """Munchausen-IQN (Vieillard et al. 2020, https://arxiv.org/abs/2007.14430), with the constants of its section 4."""

    temperature, scale, clip = 0.03, 0.9, -1.0

    def targets(self, batch, bootstrap):
        net, temperature = self.q_net_target, self.temperature
        features, next_features = (net.encode(obs, Noise.SHARED) for obs in (batch.observations, batch.next_observations))
        log_pi, next_log_pi = (log_softmax(net.sampled_values(x) / temperature, dim=1) for x in (features, next_features))
        bonus = temperature * log_pi.gather(1, batch.actions.long())  # [B, 1]
        taus = th.rand(len(bonus), self.policy.n_target_quantiles, device=self.device)
        soft_quantiles = net.quantiles(next_features, taus, Noise.SHARED) - temperature * next_log_pi[:, None]  # [B, M, A]
        soft_values = (next_log_pi.exp()[:, None] * soft_quantiles).sum(dim=2)  # [B, M]
        return batch.rewards + self.scale * bonus.clamp(min=self.clip) + bootstrap * soft_values
