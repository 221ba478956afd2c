"""Proximal policy optimisation on CartPole-v1: NumPy around two steppers, with CleanRL's hyperparameters.

``python ppo.py --seed 1`` plays; ``--torch`` has the same algorithm, from the same start, in PyTorch. Needs
``pip install ".[rl]"``. Schulman and others, "Proximal policy optimization algorithms" (2017).
"""

import argparse
import time

import gymnasium
import numpy as np

from fastmlp import Adam, Network, Stepper

ENVIRONMENTS, LENGTH, MINIBATCHES, EPOCHS = 4, 128, 4, 4
RATE, DISCOUNT, LAMBDA, CLIP = 2.5e-4, 0.99, 0.95, 0.2
ENTROPY, VALUE, LONGEST = 0.01, 0.5, 0.5
SIZES = {"actor": [4, 64, 64, 2], "critic": [4, 64, 64, 1]}


def start(sizes, last, rng):
    """Orthogonal weights, sqrt(2) long in the hidden layers and `last` in the last one; biases of 0."""
    lengths = [np.sqrt(2)] * (len(sizes) - 2) + [last]
    weights = [
        length * np.linalg.qr(rng.normal(size=(max(n_in, n_out), min(n_in, n_out))))[0].reshape(n_in, n_out)
        if n_in >= n_out
        else length * np.linalg.qr(rng.normal(size=(n_out, n_in)))[0].T
        for n_in, n_out, length in zip(sizes[:-1], sizes[1:], lengths, strict=True)
    ]
    return weights, [np.zeros(n_out) for n_out in sizes[1:]]


class Steppers:
    """Actor and critic as steppers; the loss's derivatives by their outputs stand in `learn`."""

    def __init__(self, starts):
        self.actor, self.critic = (
            Stepper(Network(SIZES[name], "tanh"), Adam(RATE, epsilon=1e-5), initial=starts[name])
            for name in SIZES
        )

    def judge(self, observations):
        """Logarithms of the actions' probabilities (rows, 2), and values (rows,)."""
        logits = self.actor.forward(observations)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits, self.critic.forward(observations)[:, 0]

    def learn(self, share, observations, actions, before, advantages, returns, values):
        """Take a step on a minibatch; share : of the learning rate."""
        self.actor.rate_factor = self.critic.rate_factor = share
        logs, now = self.judge(observations)
        rows, chances = np.arange(len(actions)), np.exp(logs)
        ratios = np.exp(logs[rows, actions] - before)
        unclipped = -advantages * ratios >= -advantages * np.clip(ratios, 1 - CLIP, 1 + CLIP)
        by_log = np.where(unclipped, -advantages * ratios, 0)[:, None]
        entropy = -(chances * logs).sum(axis=1, keepdims=True)
        delta = by_log * (np.eye(2, dtype="f")[actions] - chances) + ENTROPY * chances * (logs + entropy)
        self.actor.backward((delta / len(rows)).astype("f"), inputs=False)

        near = values + np.clip(now - values, -CLIP, CLIP)
        by_value = np.where((now - returns) ** 2 >= (near - returns) ** 2, now - returns, 0)
        self.critic.backward((VALUE * by_value / len(rows)).astype("f")[:, None], inputs=False)

        both = self.actor, self.critic
        norm = np.sqrt(sum(np.square(one.gradients).sum() for one in both))
        for one in both:
            one.gradients *= min(1, LONGEST / (norm + 1e-6))
            one.update()


class Torch:
    """The same in PyTorch."""

    def __init__(self, starts):
        import torch

        self.torch, self.networks = torch, {}
        torch.set_num_threads(1)
        for name, (weights, biases) in starts.items():
            layers = []
            for w, b in zip(weights, biases, strict=True):
                layers += [torch.nn.Linear(*w.shape), torch.nn.Tanh()]
                layers[-2].weight.data.copy_(torch.from_numpy(w.T))
                layers[-2].bias.data.copy_(torch.from_numpy(b))
            self.networks[name] = torch.nn.Sequential(*layers[:-1])
        self.parameters = [p for one in self.networks.values() for p in one.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, RATE, eps=1e-5, fused=True)

    def judge(self, observations):
        """As of `Steppers`."""
        with self.torch.no_grad():
            X = self.torch.from_numpy(observations)
            logs = self.torch.log_softmax(self.networks["actor"](X), 1)
            return logs.numpy(), self.networks["critic"](X)[:, 0].numpy()

    def learn(self, share, *batch):
        """As of `Steppers`."""
        torch = self.torch
        observations, actions, before, advantages, returns, values = map(torch.from_numpy, batch)
        self.optimizer.param_groups[0]["lr"] = share * RATE
        logs = torch.log_softmax(self.networks["actor"](observations), 1)
        now = self.networks["critic"](observations)[:, 0]
        ratios = (logs.gather(1, actions[:, None])[:, 0] - before).exp()
        clipped = ratios.clamp(1 - CLIP, 1 + CLIP)
        of_policy = torch.max(-advantages * ratios, -advantages * clipped).mean()
        near = values + (now - values).clamp(-CLIP, CLIP)
        of_value = 0.5 * torch.max((now - returns) ** 2, (near - returns) ** 2).mean()
        entropy = -(logs.exp() * logs).sum(1).mean()
        self.optimizer.zero_grad()
        (of_policy - ENTROPY * entropy + VALUE * of_value).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, LONGEST)
        self.optimizer.step()


def play(agent, rng, steps, seed):
    """Learn for so many steps of the environments; return the episodes' returns, and the seconds of these."""
    environments = [gymnasium.make("CartPole-v1") for _ in range(ENVIRONMENTS)]
    now = np.stack([one.reset(seed=seed + i)[0] for i, one in enumerate(environments)])
    shape = LENGTH, ENVIRONMENTS
    observations, actions = np.empty((*shape, 4), "f"), np.empty(shape, np.int64)
    before, rewards, values, ends = (np.empty(shape, "f") for _ in range(4))
    scores, score, outside = [], np.zeros(ENVIRONMENTS), 0.0
    batch, updates = LENGTH * ENVIRONMENTS, steps // (LENGTH * ENVIRONMENTS)
    for update in range(updates):
        for t in range(LENGTH):
            logs, values[t] = agent.judge(now)
            observations[t] = now
            actions[t] = rng.random(ENVIRONMENTS) > np.exp(logs[:, 0])
            before[t] = logs[range(ENVIRONMENTS), actions[t]]
            began = time.process_time()
            for i, one in enumerate(environments):
                now[i], rewards[t, i], terminated, truncated, _ = one.step(int(actions[t, i]))
                score[i] += rewards[t, i]
                ends[t, i] = terminated or truncated
                if ends[t, i]:
                    scores.append(score[i])
                    score[i], now[i] = 0, one.reset()[0]
            outside += time.process_time() - began
        following, advantage = agent.judge(now)[1], np.zeros(ENVIRONMENTS, "f")
        advantages = np.empty(shape, "f")
        for t in reversed(range(LENGTH)):
            goes_on = 1 - ends[t]
            surprise = rewards[t] + DISCOUNT * following * goes_on - values[t]
            advantages[t] = advantage = surprise + DISCOUNT * LAMBDA * goes_on * advantage
            following = values[t]
        arrays = observations, actions, before, advantages, advantages + values, values
        flat = [array.reshape(batch, *array.shape[2:]) for array in arrays]
        for _ in range(EPOCHS):
            for some in rng.permutation(batch).reshape(MINIBATCHES, -1):
                given = [array[some] for array in flat]
                given[3] = (given[3] - given[3].mean()) / (given[3].std(ddof=1) + 1e-8)
                agent.learn(1 - update / updates, *given)
    return scores, outside


def main(arguments=None):
    """Play, and print the mean return of the last 100 episodes, which is 500 at most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500_000, help="of all environments together")
    parser.add_argument("--torch", action="store_true", help="the same in PyTorch")
    chosen = parser.parse_args(arguments)
    rng = np.random.default_rng(chosen.seed)
    starts = {name: start(SIZES[name], last, rng) for name, last in (("actor", 0.01), ("critic", 1.0))}
    agent = (Torch if chosen.torch else Steppers)(starts)
    began = time.process_time()
    scores, outside = play(agent, rng, chosen.steps, chosen.seed)
    rest = time.process_time() - began - outside
    mean = np.mean(scores[-100:])
    print(f"seed {chosen.seed}: return {mean:.1f}; {outside:.1f} s for the environment, {rest:.1f} s more")
    return mean


if __name__ == "__main__":
    main()
