import torch as th
from torch.nn.functional import log_softmax

from sb3_distrl import IQN
from sb3_distrl.networks import Noise


class MunchausenIQN(IQN):
    """Munchausen-IQN (Vieillard et al. 2020, https://arxiv.org/abs/2007.14430, section 4), for double_q=False."""

    temperature, scale, clip = 0.03, 0.9, -1.0

    def targets(self, batch, bootstrap):
        net, temperature, risk = self.q_net_target, self.temperature, self.target_risk
        with self.autocast():
            features, next_features = (net.encode(obs, Noise.SHARED) for obs in (batch.observations, batch.next_observations))
            values, next_values = (net.sampled_values(x, Noise.SHARED, risk) for x in (features, next_features))  # [B, A]
            taus = th.rand(len(values), self.policy.n_target_quantiles, device=self.device)
            quantiles = net.quantiles(next_features, taus, Noise.SHARED)  # [B, M, A]
        log_pi, next_log_pi = (log_softmax(each / temperature, dim=1) for each in (values, next_values))
        bonus = (temperature * log_pi.gather(1, batch.actions.long())).clamp(min=self.clip)  # [B, 1]
        soft_values = (next_log_pi.exp()[:, None] * (quantiles - temperature * next_log_pi[:, None])).sum(dim=2)  # [B, M]
        return batch.rewards + self.scale * bonus + bootstrap * soft_values
