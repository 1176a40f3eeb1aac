"""A strongly convex problem in closed form to check Proposition 2.3 of Learn2Mix (arXiv 2412.16482).

Each class i has the loss L_i(theta) = 1/2 (theta - c_i)' A_i (theta - c_i) + b_i with A_i positive definite and b_i > 0.
Gradient descent takes a step on the mixture of these losses, and Learn2Mix a step of the proportions:

    theta <- theta - eta sum_i alpha_i grad L_i(theta),    alpha <- alpha + gamma (L(theta) / 1'L(theta) - alpha).

The proposition says that theta -> theta* and alpha -> L(theta*) / 1'L(theta*) for eta in (0, 2 / L*) and gamma in (0, 1).
Whether that is true depends on the definition of theta*:

1.  If all classes share their minimizer c, the statement is true as it stands, with theta* = c. Every mixture has its minimum
    there, so a step shrinks the distance to c at least by rho = max(|1 - eta mu|, |1 - eta L|), whatever alpha is; mu and L are
    the smallest and the largest eigenvalue of any A_i. The loss shares differ from those at c by O(|theta - c|^2), so alpha
    converges like max(rho^2, 1 - gamma)^t, and the pair within the paper's max(rho, 1 - gamma)^t. The paper's proof, a
    contraction towards a fixed theta*, needs this case.
2.  If the minimizers differ, theta converges neither to the minimizer of the classical mixture (alpha~) nor to that of any
    mixture known in advance. A limit must be a joint fixed point: theta* minimizes the mixture of alpha*, and
    alpha* = L(theta*) / 1'L(theta*). Together, sum_i L_i(theta*) grad L_i(theta*) = 0, so theta* is a stationary point of
    1/2 sum_i L_i^2. The squares of positive strongly convex functions are strongly convex, so there is exactly one. **Learn2Mix
    descends to the minimizer of the Euclidean norm of the class losses**, which lies between their sum (balanced sampling)
    and their maximum (group DRO). The class sizes do not matter.
3.  Convergence to this point does not follow from the proposition's conditions. Near the fixed point the iteration converges
    like rate^t if the spectral radius of its Jacobian, `rate`, is below 1. If theta follows alpha immediately (small gamma), an
    eigenvalue is 1 - gamma (1 + lambda / 1'L), where lambda is an eigenvalue of G' H^-1 G, G has the gradients of the classes,
    and H is the Hessian of the mixture. Since lambda / 1'L <= 2 L / mu, gamma < 2 / (1 + 2 L / mu) is sufficient then. Two
    classes on a line with A = 1, c = 1 and -1, small b, eta = 1 and gamma = 0.9 satisfy the proposition's conditions, and
    cycle forever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from l2m_fast import Learn2Mix, Window

Floats = NDArray[np.float64]


class Trajectory(NamedTuple):
    """Path of the iteration.

    Attributes:
        thetas: Parameters at each step, `[steps + 1, d]`.
        proportions: Proportions at each step, `[steps + 1, K]`.
    """

    thetas: Floats
    proportions: Floats


@dataclass(frozen=True)
class Quadratics:
    """Quadratic losses of K classes with d parameters.

    Attributes:
        curvatures: Matrices A, `[K, d, d]`, symmetric and positive definite.
        minimizers: Points c, `[K, d]`.
        floors: Minimum losses b, `[K]`, above 0.
    """

    curvatures: Floats
    minimizers: Floats
    floors: Floats

    def losses(self, theta: Floats) -> Floats:
        """Return L(theta), `[K]`."""
        away = theta - self.minimizers
        values: Floats = np.einsum("ki,kij,kj->k", away, self.curvatures, away) / 2 + self.floors
        return values

    def gradients(self, theta: Floats) -> Floats:
        """Return the gradient of each class, `[K, d]`."""
        values: Floats = np.einsum("kij,kj->ki", self.curvatures, theta - self.minimizers)
        return values

    def minimizer(self, proportions: Floats) -> Floats:
        """Return the minimizer of the mixture with the given proportions, `[d]`; classical training converges to it."""
        pulls = np.einsum("kij,kj->ki", self.curvatures, self.minimizers)
        return np.linalg.solve(np.tensordot(proportions, self.curvatures, 1), proportions @ pulls)

    def fixed_point(self) -> tuple[Floats, Floats]:
        """Return the unique fixed point theta*, alpha*, computed by Newton's method on 1/2 sum_i L_i^2.

        Raises:
            RuntimeError: Newton's method did not converge in 100 steps.
        """
        theta = self.minimizers.mean(axis=0)
        for _ in range(100):
            losses, gradients = self.losses(theta), self.gradients(theta)
            step = np.linalg.solve(
                gradients.T @ gradients + np.tensordot(losses, self.curvatures, 1), losses @ gradients
            )
            # Halve the step while it increases the objective by more than rounding.
            while np.linalg.norm(self.losses(theta - step)) > (1 + 1e-12) * np.linalg.norm(losses):
                step = step / 2
            theta = theta - step
            if np.linalg.norm(step) <= 1e-12 * (1 + np.linalg.norm(theta)):
                losses = self.losses(theta)
                return theta, losses / losses.sum()
        msg = f"Newton's method must converge in 100 steps (got a last step of length {np.linalg.norm(step):g})"
        raise RuntimeError(msg)

    def rate(self, learning_rate: float, mixing_rate: float) -> float:
        """Return the asymptotic convergence factor per step; the iteration converges if it is below 1.

        It is the spectral radius of the Jacobian at the fixed point, restricted to proportions that sum to 1.
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
        # The sum of the proportions stays 1, so they move in the plane orthogonal to (1, ..., 1).
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
    """Run gradient descent with the package's Learn2Mix policy on exact losses; both steps use the same theta.

    Args:
        problem: Class losses.
        start: Initial theta, `[d]`.
        class_sizes: Class sizes that determine the initial proportions, int64 `[K]`, each above 0.
        learning_rate: Learning rate, eta in the paper.
        mixing_rate: Mixing rate, gamma in the paper.
        steps: Number of steps.

    Returns:
        All thetas and proportions, including the initial ones.
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
