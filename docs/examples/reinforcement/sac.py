"""Soft actor-critic on Pendulum-v1: NumPy around steppers, with CleanRL's hyperparameters.

``python sac.py --seed 1`` plays; ``--torch`` has the same algorithm, from the same start, in PyTorch. Needs
``pip install ".[rl]"``. Haarnoja and others, "Soft actor-critic algorithms and applications" (2018).
"""

import argparse
import itertools
import math
import time

import gymnasium
import numpy as np

from fastmlp import Adam, Network, Stepper

SEEN, DONE, REACH = 3, 1, 2.0  # numbers of an observation and of an action, and the greatest action
SIZES = {"actor": [SEEN, 256, 256, 2 * DONE], "first": [SEEN + DONE, 256, 256, 1]}
SIZES["second"] = SIZES["first"]
RATES = {"actor": 3e-4, "first": 1e-3, "second": 1e-3}
BATCH, BEGINS, DISCOUNT, TAU, EVERY, ALPHA_RATE = 256, 5000, 0.99, 0.005, 2, 1e-3
LEAST, MOST = -5.0, 2.0  # of the logarithm of a standard deviation
HALF_LOG = 0.5 * math.log(2 * math.pi)


def start(sizes, rng):
    """Weights and biases as `torch.nn.Linear` draws them."""
    shapes = list(itertools.pairwise(sizes))
    weights = [rng.uniform(-1, 1, shape) / np.sqrt(shape[0]) for shape in shapes]
    return weights, [rng.uniform(-1, 1, n_out) / np.sqrt(n_in) for n_in, n_out in shapes]


class Steppers:
    """Actor and critics as steppers; the derivatives by their outputs stand in `improve`."""

    def __init__(self, starts):
        self.actor, *self.critics = (
            Stepper(Network(SIZES[name], "relu"), Adam(RATES[name]), initial=starts[name]) for name in SIZES
        )
        self.targets = [one.copy() for one in self.critics]
        # Its bias is the logarithm of the temperature alpha.
        self.temperature = Stepper(Network([1, 1]), Adam(ALPHA_RATE), initial=([[[0.0]]], [[0.0]]))

    def act(self, observations, noise):
        """Return actions, the logarithms of their densities, and what their derivatives need."""
        outputs = self.actor.forward(observations)
        mean, bend = outputs[:, :DONE], np.tanh(outputs[:, DONE:])
        deviation = np.exp(LEAST + 0.5 * (MOST - LEAST) * (bend + 1))
        squashed = np.tanh(mean + deviation * noise)
        slope = REACH * (1 - squashed**2)
        logs = -0.5 * noise**2 - np.log(deviation) - HALF_LOG - np.log(slope + 1e-6)
        return REACH * squashed, logs.sum(axis=1, keepdims=True), (noise * deviation, bend, squashed, slope)

    def learn(self, observations, actions, rewards, following, ends, noise):
        """Take a step of both critics, and move their targets."""
        alpha = np.exp(self.temperature.biases[0][0])
        later, logs, _ = self.act(following, noise)
        inputs = np.hstack([following, later])
        value = np.minimum(*(one.forward(inputs) for one in self.targets)) - alpha * logs
        aims = rewards + DISCOUNT * (1 - ends) * value
        inputs = np.hstack([observations, actions])
        for critic in self.critics:
            critic.step(inputs, aims)

    def improve(self, observations, noise):
        """Take a step of the actor, and of the temperature."""
        alpha, rows = np.exp(self.temperature.biases[0][0]), len(observations)
        actions, logs, (spread, bend, squashed, slope) = self.act(observations, noise)
        inputs = np.hstack([observations, actions])
        first, second = (one.forward(inputs) for one in self.critics)
        least = (first <= second).astype("f")
        by_action = sum(
            one.backward(-share / rows)[:, SEEN:]
            for one, share in zip(self.critics, (least, 1 - least), strict=True)
        )
        by_mean = by_action * slope + alpha / rows * 2 * squashed * slope / (slope + 1e-6)
        by_bend = (by_mean * spread - alpha / rows) * 0.5 * (MOST - LEAST) * (1 - bend**2)
        self.actor.backward(np.hstack([by_mean, by_bend]), inputs=False)
        self.actor.update()
        self.temperature.gradients[...] = 0, -alpha * np.mean(logs - DONE)
        self.temperature.update()

    def follow(self):
        """Move the target networks towards the critics."""
        for critic, target in zip(self.critics, self.targets, strict=True):
            critic.average_into(target, TAU)


class Torch:
    """The same in PyTorch."""

    def __init__(self, starts):
        import torch

        self.torch = torch
        torch.set_num_threads(1)
        self.actor, *self.critics = (self.network(*starts[name]) for name in SIZES)
        self.targets = [self.network(*starts[name]) for name in ("first", "second")]
        both = [p for one in self.critics for p in one.parameters()]
        self.of_actor = torch.optim.Adam(self.actor.parameters(), RATES["actor"], fused=True)
        self.of_critics = torch.optim.Adam(both, RATES["first"], fused=True)
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.of_alpha = torch.optim.Adam([self.log_alpha], ALPHA_RATE, fused=True)

    def network(self, weights, biases):
        """Return a network with these weights and biases."""
        torch, layers = self.torch, []
        for w, b in zip(weights, biases, strict=True):
            layers += [torch.nn.Linear(*w.shape), torch.nn.ReLU()]
            layers[-2].weight.data.copy_(torch.from_numpy(w.T))
            layers[-2].bias.data.copy_(torch.from_numpy(b))
        return torch.nn.Sequential(*layers[:-1])

    def sample(self, observations, noise):
        """Return actions and the logarithms of their densities, as tensors."""
        torch = self.torch
        mean, bend = self.actor(observations).split(DONE, 1)
        deviation = (LEAST + 0.5 * (MOST - LEAST) * (torch.tanh(bend) + 1)).exp()
        squashed = torch.tanh(mean + deviation * noise)
        logs = -0.5 * noise**2 - deviation.log() - HALF_LOG
        logs = logs - torch.log(REACH * (1 - squashed**2) + 1e-6)
        return REACH * squashed, logs.sum(1, keepdim=True)

    def act(self, observations, noise):
        """As of `Steppers`."""
        with self.torch.no_grad():
            return [one.numpy() for one in self.sample(*map(self.torch.from_numpy, (observations, noise)))]

    def learn(self, *batch):
        """As of `Steppers`."""
        torch = self.torch
        observations, actions, rewards, following, ends, noise = map(torch.from_numpy, batch)
        with torch.no_grad():
            later, logs = self.sample(following, noise)
            inputs = torch.cat([following, later], 1)
            value = torch.min(*(one(inputs) for one in self.targets)) - self.log_alpha.exp() * logs
            aims = rewards + DISCOUNT * (1 - ends) * value
        inputs = torch.cat([observations, actions], 1)
        self.of_critics.zero_grad()
        sum(torch.nn.functional.mse_loss(one(inputs), aims) for one in self.critics).backward()
        self.of_critics.step()

    def improve(self, observations, noise):
        """As of `Steppers`."""
        torch = self.torch
        observations, noise = map(torch.from_numpy, (observations, noise))
        actions, logs = self.sample(observations, noise)
        least = torch.min(*(one(torch.cat([observations, actions], 1)) for one in self.critics))
        self.of_actor.zero_grad()
        (self.log_alpha.exp().detach() * logs - least).mean().backward()
        self.of_actor.step()
        self.of_alpha.zero_grad()
        (-self.log_alpha.exp() * (logs.detach() - DONE)).mean().backward()
        self.of_alpha.step()

    def follow(self):
        """As of `Steppers`."""
        with self.torch.no_grad():
            for critic, target in zip(self.critics, self.targets, strict=True):
                for own, other in zip(critic.parameters(), target.parameters(), strict=True):
                    other.copy_(TAU * own + (1 - TAU) * other)


def play(agent, rng, steps, seed):
    """Learn for so many steps; return the episodes' returns, and the environment's seconds."""
    environment = gymnasium.make("Pendulum-v1")
    now, _ = environment.reset(seed=seed)
    widths = SEEN, DONE, 1, SEEN, 1
    kept = [np.empty((steps, width), "f") for width in widths]

    def noise(rows):
        return rng.standard_normal((rows, DONE), "f")

    scores, score, outside = [], 0.0, 0.0
    for step in range(steps):
        if step < BEGINS:
            action = rng.uniform(-REACH, REACH, DONE).astype("f")
        else:
            action = agent.act(now[None], noise(1))[0][0]
        began = time.process_time()
        after, reward, terminated, truncated, _ = environment.step(action)
        for array, value in zip(kept, (now, action, reward, after, terminated), strict=True):
            array[step] = value
        now, score = after, score + reward
        if terminated or truncated:
            scores.append(score)
            score, (now, _) = 0.0, environment.reset()
        outside += time.process_time() - began
        if step > BEGINS:
            some = rng.integers(step + 1, size=BATCH)
            batch = [array[some] for array in kept]
            agent.learn(*batch, noise(BATCH))
            if step % EVERY == 0:
                for _ in range(EVERY):
                    agent.improve(batch[0], noise(BATCH))
            agent.follow()
    return scores, outside


def main(arguments=None):
    """Play, and print the mean return of the last 10 episodes, which is about -150 for one who can."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--torch", action="store_true", help="the same in PyTorch")
    chosen = parser.parse_args(arguments)
    rng = np.random.default_rng(chosen.seed)
    agent = (Torch if chosen.torch else Steppers)({name: start(sizes, rng) for name, sizes in SIZES.items()})
    began = time.process_time()
    scores, outside = play(agent, rng, chosen.steps, chosen.seed)
    rest = time.process_time() - began - outside
    mean = np.mean(scores[-10:])
    print(f"seed {chosen.seed}: return {mean:.1f}; {outside:.1f} s for the environment, {rest:.1f} s more")
    return mean


if __name__ == "__main__":
    main()
