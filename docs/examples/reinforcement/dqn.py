"""Deep Q-learning on CartPole-v1: NumPy around two steppers, with CleanRL's hyperparameters.

``python dqn.py --seed 1`` plays; ``--torch`` has the same algorithm, from the same start, in PyTorch. Needs
``pip install ".[rl]"``. Mnih and others, "Human-level control through deep reinforcement learning",
2015.
"""

import argparse
import itertools
import time

import gymnasium
import numpy as np

from fastmlp import Adam, Network, Stepper

SIZES, RATE, DISCOUNT, BATCH, KEPT = [4, 120, 84, 2], 2.5e-4, 0.99, 128, 10_000
BEGINS, EVERY, COPIED, LEAST_RANDOM, UNTIL = 10_000, 10, 500, 0.05, 0.5


def start(sizes, rng):
    """Weights and biases as `torch.nn.Linear` draws them."""
    shapes = list(itertools.pairwise(sizes))
    weights = [rng.uniform(-1, 1, shape) / np.sqrt(shape[0]) for shape in shapes]
    return weights, [rng.uniform(-1, 1, n_out) / np.sqrt(n_in) for n_in, n_out in shapes]


class Steppers:
    """Both networks as steppers."""

    def __init__(self, initial):
        self.online = Stepper(Network(SIZES, "relu"), Adam(RATE), initial=initial)
        self.target = self.online.copy()

    def best(self, observation):
        """The action of the greatest value."""
        return int(self.online.forward(observation[None]).argmax())

    def learn(self, observations, actions, rewards, following, ends):
        """Take a step towards what the target network makes of the next observations."""
        aims = rewards + DISCOUNT * (1 - ends) * self.target.forward(following).max(axis=1)
        rows, values = np.arange(BATCH), self.online.forward(observations)
        delta = np.zeros_like(values)
        delta[rows, actions] = 2 / BATCH * (values[rows, actions] - aims)
        self.online.backward(delta, inputs=False)
        self.online.update()

    def copy(self):
        """Make the target network the same as the other one."""
        self.online.average_into(self.target, 1.0)


class Torch:
    """The same in PyTorch."""

    def __init__(self, initial):
        import torch

        self.torch = torch
        torch.set_num_threads(1)
        self.online, self.target = self.network(*initial), self.network(*initial)
        self.optimizer = torch.optim.Adam(self.online.parameters(), RATE, fused=True)

    def network(self, weights, biases):
        """Return a network with these weights and biases."""
        torch, layers = self.torch, []
        for w, b in zip(weights, biases, strict=True):
            layers += [torch.nn.Linear(*w.shape), torch.nn.ReLU()]
            layers[-2].weight.data.copy_(torch.from_numpy(w.T))
            layers[-2].bias.data.copy_(torch.from_numpy(b))
        return torch.nn.Sequential(*layers[:-1])

    def best(self, observation):
        """As of `Steppers`."""
        with self.torch.no_grad():
            return int(self.online(self.torch.from_numpy(observation[None])).argmax())

    def learn(self, *batch):
        """As of `Steppers`."""
        observations, actions, rewards, following, ends = map(self.torch.from_numpy, batch)
        with self.torch.no_grad():
            aims = rewards + DISCOUNT * (1 - ends) * self.target(following).max(dim=1).values
        values = self.online(observations).gather(1, actions[:, None])[:, 0]
        self.optimizer.zero_grad()
        self.torch.nn.functional.mse_loss(values, aims).backward()
        self.optimizer.step()

    def copy(self):
        """As of `Steppers`."""
        self.target.load_state_dict(self.online.state_dict())


def play(agent, rng, steps, seed):
    """Learn for so many steps; return the episodes' returns, and the environment's seconds."""
    environment = gymnasium.make("CartPole-v1")
    now, _ = environment.reset(seed=seed)
    observations, following = np.empty((KEPT, 4), "f"), np.empty((KEPT, 4), "f")
    actions, rewards, ends = np.empty(KEPT, np.int64), np.empty(KEPT, "f"), np.empty(KEPT, "f")
    scores, score, outside = [], 0.0, 0.0
    for step in range(steps):
        random = max(LEAST_RANDOM, 1 - (1 - LEAST_RANDOM) * step / (UNTIL * steps))
        action = int(rng.integers(2)) if rng.random() < random else agent.best(now)
        began = time.process_time()
        after, reward, terminated, truncated, _ = environment.step(action)
        at, score = step % KEPT, score + reward
        observations[at], following[at], actions[at], rewards[at], ends[at] = (
            now, after, action, reward, terminated,
        )  # fmt: skip
        now = after
        if terminated or truncated:
            scores.append(score)
            score, (now, _) = 0.0, environment.reset()
        outside += time.process_time() - began
        if step >= BEGINS and step % EVERY == 0:
            some = rng.integers(min(step + 1, KEPT), size=BATCH)
            agent.learn(*(kept[some] for kept in (observations, actions, rewards, following, ends)))
        if step >= BEGINS and step % COPIED == 0:
            agent.copy()
    return scores, outside


def main(arguments=None):
    """Play, and print the mean return of the last 100 episodes, which is 500 at most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--torch", action="store_true", help="the same in PyTorch")
    chosen = parser.parse_args(arguments)
    rng = np.random.default_rng(chosen.seed)
    agent = (Torch if chosen.torch else Steppers)(start(SIZES, rng))
    began = time.process_time()
    scores, outside = play(agent, rng, chosen.steps, chosen.seed)
    rest = time.process_time() - began - outside
    mean = np.mean(scores[-100:])
    print(f"seed {chosen.seed}: return {mean:.1f}; {outside:.1f} s for the environment, {rest:.1f} s more")
    return mean


if __name__ == "__main__":
    main()
