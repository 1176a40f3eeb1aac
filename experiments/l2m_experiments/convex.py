"""A strongly convex problem in closed form, on which Proposition 2.3 of Learn2Mix (arXiv 2412.16482) can be checked.

Each class i has the loss L_i(theta) = 1/2 (theta - c_i)' A_i (theta - c_i) + b_i with A_i positive definite and b_i > 0.
Gradient descent takes a step on the mix of these losses, and Learn2Mix a step of the proportions:

    theta <- theta - eta sum_i alpha_i grad L_i(theta),    alpha <- alpha + gamma (L(theta) / 1'L(theta) - alpha).

The proposition says that for eta in (0, 2 / L*) and gamma in (0, 1), theta -> theta* and alpha -> L(theta*) / 1'L(theta*).
What of it holds depends on what theta* is taken to be:

1.  Where all classes share their minimiser c, the statement holds as it stands, with theta* = c. Every mix has its minimum
    there, so that a step shrinks the distance to c by rho = max(|1 - eta mu|, |1 - eta L|) at least, whatever alpha; mu and
    L are the least and the largest eigenvalue of any A_i. The loss shares differ from those at c by
    O(|theta - c|^2), so alpha converges like max(rho^2, 1 - gamma)^t, and the pair within the paper's max(rho, 1 - gamma)^t.
    The paper's proof, a contraction towards a theta* that does not move, needs this case.
2.  Where the minimisers differ, theta does not go to the minimiser of the classical mix (alpha~), nor of any mix known
    beforehand. A limit must be a joint fixed point: theta* minimises the mix of alpha*, and alpha* = L(theta*) / 1'L(theta*).
    Put together, sum_i L_i(theta*) grad L_i(theta*) = 0: theta* is a stationary point of 1/2 sum_i L_i^2. The squares of
    positive strongly convex functions are strongly convex, so there is exactly one. **Learn2Mix descends to the minimiser
    of the Euclidean norm of the class losses**, which lies between their sum, that of balanced sampling, and their maximum, that
    of group DRO; the class sizes have no part in it.
3.  That the iteration gets there does not follow from the proposition's conditions: near the fixed point it converges if the
    spectral radius of its Jacobian, `rate`, is below 1, and then like rate^t. Where theta follows alpha at once (small
    gamma) an eigenvalue of it is 1 - gamma (1 + lambda / 1'L), lambda an eigenvalue of G' H^-1 G, with G the gradients
    of the classes and H the Hessian of the mix. Since lambda / 1'L <= 2 L / mu, gamma < 2 / (1 + 2 L / mu) is enough there. Two
    classes on a line, A = 1, c = 1 and -1, b small, eta = 1 and gamma = 0.9 are within the proposition's conditions, and go
    round for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from l2m_fast import Learn2Mix, Window

Floats = NDArray[np.float64]


class Trajectory(NamedTuple):
    """Where the iteration went.

    Attributes:
        thetas: `[steps + 1, d]`.
        proportions: `[steps + 1, K]`.
    """

    thetas: Floats
    proportions: Floats


@dataclass(frozen=True)
class Quadratics:
    """The losses of K classes of d parameters.

    Attributes:
        curvatures: A, `[K, d, d]`, symmetric and positive definite.
        minimisers: c, `[K, d]`.
        floors: b, `[K]`, above 0.
    """

    curvatures: Floats
    minimisers: Floats
    floors: Floats

    def losses(self, theta: Floats) -> Floats:
        """L(theta), `[K]`."""
        away = theta - self.minimisers
        values: Floats = np.einsum("ki,kij,kj->k", away, self.curvatures, away) / 2 + self.floors
        return values

    def gradients(self, theta: Floats) -> Floats:
        """The gradient of each class, `[K, d]`."""
        values: Floats = np.einsum("kij,kj->ki", self.curvatures, theta - self.minimisers)
        return values

    def minimiser(self, proportions: Floats) -> Floats:
        """Theta that minimises the mix of the given proportions, `[d]`: where classical training ends."""
        pulls = np.einsum("kij,kj->ki", self.curvatures, self.minimisers)
        return np.linalg.solve(np.tensordot(proportions, self.curvatures, 1), proportions @ pulls)

    def fixed_point(self) -> tuple[Floats, Floats]:
        """The only theta* and alpha* at which neither moves: by Newton's method on 1/2 sum_i L_i^2, to rounding.

        Raises:
            RuntimeError: It was not reached in 100 steps.
        """
        theta = self.minimisers.mean(axis=0)
        for _ in range(100):
            losses, gradients = self.losses(theta), self.gradients(theta)
            step = np.linalg.solve(
                gradients.T @ gradients + np.tensordot(losses, self.curvatures, 1), losses @ gradients
            )
            # Halved while it leads upwards, by more than rounding.
            while np.linalg.norm(self.losses(theta - step)) > (1 + 1e-12) * np.linalg.norm(losses):
                step = step / 2
            theta = theta - step
            if np.linalg.norm(step) <= 1e-12 * (1 + np.linalg.norm(theta)):
                losses = self.losses(theta)
                return theta, losses / losses.sum()
        msg = f"Newton's method did not end in 100 steps: the last has length {np.linalg.norm(step):g}"
        raise RuntimeError(msg)

    def rate(self, learning_rate: float, mixing_rate: float) -> float:
        """The factor by which the iteration comes nearer to its fixed point in a step, in the end; from 1 up it does not.

        The spectral radius of the iteration's Jacobian at the fixed point, on proportions that sum to 1.
        """
        theta, proportions = self.fixed_point()
        losses, gradients = self.losses(theta), self.gradients(theta)
        num_classes, size = gradients.shape
        shares = (gradients - np.outer(proportions, gradients.sum(axis=0))) / losses.sum()  # d (L / 1'L) / d theta
        hessian = np.tensordot(proportions, self.curvatures, 1)
        jacobian = np.block(
            [
                [np.eye(size) - learning_rate * hessian, -learning_rate * gradients.T],
                [mixing_rate * shares, (1 - mixing_rate) * np.eye(num_classes)],
            ]
        )
        # Proportions move only so that their sum stays 1: in the plane that is orthogonal to (1, ..., 1).
        basis = np.linalg.qr(np.column_stack([np.ones(num_classes), np.eye(num_classes)[:, 1:]]))[0][:, 1:]
        within = np.block([[np.eye(size), np.zeros((size, num_classes - 1))], [np.zeros((num_classes, size)), basis]])
        return float(np.abs(np.linalg.eigvals(within.T @ jacobian @ within)).max())


def descend(
    problem: Quadratics,
    start: Floats,
    class_sizes: NDArray[np.int64],
    *,
    learning_rate: float,
    mixing_rate: float,
    steps: int,
) -> Trajectory:
    """Runs gradient descent with Learn2Mix, the package's own policy, on exact losses; both steps at the same theta.

    Args:
        problem: The class losses.
        start: Theta at the start, `[d]`.
        class_sizes: From which the proportions start, int64 `[K]`, each above 0.
        learning_rate: Eta in the paper.
        mixing_rate: Gamma in the paper.
        steps: Steps of both.

    Returns:
        All thetas and proportions, the first ones included.
    """
    policy = Learn2Mix(mixing_rate)
    theta, proportions = start, policy.initial(class_sizes)
    thetas, mixes = [theta], [proportions]
    for _ in range(steps):
        losses, gradients = problem.losses(theta), problem.gradients(theta)
        theta = theta - learning_rate * proportions @ gradients
        proportions = policy.update(Window.of(proportions, losses, class_sizes))
        thetas.append(theta)
        mixes.append(proportions)
    return Trajectory(np.array(thetas), np.array(mixes))
