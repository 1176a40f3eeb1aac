"""Proposition 2.3 of Learn2Mix (arXiv 2412.16482) on problems in closed form.

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
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from l2m_fast import Learn2Mix, Loader, Window

Floats = NDArray[np.float64]
SMALLEST, LARGEST = 1.0, 4.0  # bounds of the curvatures: mu and L of the proposition

seeds = st.integers(0, 2**32 - 1)


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


def problem_of(seed: int, shared: bool) -> tuple[Quadratics, Floats, NDArray[np.int64]]:
    """Return a problem of 2 to 5 classes and 1 to 4 parameters, an initial theta, and class sizes."""
    rng = np.random.default_rng(seed)
    num_classes, size = int(rng.integers(2, 6)), int(rng.integers(1, 5))
    turns = np.linalg.qr(rng.normal(size=(num_classes, size, size)))[0]
    curvatures = np.einsum("kij,kj,klj->kil", turns, rng.uniform(SMALLEST, LARGEST, (num_classes, size)), turns)
    minimizers = rng.normal(size=(1 if shared else num_classes, size)) * np.ones((num_classes, 1))
    problem = Quadratics(curvatures, minimizers, rng.uniform(0.1, 2.0, num_classes))
    return problem, 3 * rng.normal(size=size), rng.integers(1, 1000, num_classes)


def distances(run: Trajectory, theta: Floats, proportions: Floats) -> Floats:
    """Return the distance of each step of the pair from a point."""
    away: Floats = np.hypot(
        np.linalg.norm(run.thetas - theta, axis=1), np.linalg.norm(run.proportions - proportions, axis=1)
    )
    return away


@given(seed=seeds)
def test_gradients_are_those_of_the_losses(seed: int) -> None:
    problem, theta, _ = problem_of(seed, shared=False)
    for direction in np.eye(len(theta)):
        difference = (problem.losses(theta + 1e-5 * direction) - problem.losses(theta - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose(problem.gradients(theta) @ direction, difference, atol=1e-6)


@given(seed=seeds)
def test_the_gradient_at_the_minimizer_of_a_mixture_is_0(seed: int) -> None:
    problem, _, sizes = problem_of(seed, shared=False)
    mix = sizes / sizes.sum()
    np.testing.assert_allclose(mix @ problem.gradients(problem.minimizer(mix)), 0, atol=1e-10)


@settings(max_examples=50)
@given(seed=seeds)
def test_the_fixed_point_minimizes_the_norm_of_the_class_losses(seed: int) -> None:
    """A general optimizer, which does not know the proportions, finds the same point."""
    problem, start, _ = problem_of(seed, shared=False)
    theta, proportions = problem.fixed_point()
    found = minimize(lambda x: (problem.losses(x) ** 2).sum() / 2, start, method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(theta, found.x, atol=1e-5)
    losses = problem.losses(theta)
    np.testing.assert_allclose(proportions, losses / losses.sum(), rtol=1e-12)
    np.testing.assert_allclose(theta, problem.minimizer(proportions), atol=1e-9)


@settings(max_examples=50)
@given(
    seed=seeds,
    learning_rate=st.floats(0.02, 1.98 / LARGEST),
    mixing_rate=st.floats(0.02, 0.98),
)
def test_the_proposition_holds_for_all_its_rates_if_classes_share_their_minimizer(
    seed: int, learning_rate: float, mixing_rate: float
) -> None:
    """Both bounds hold at every step, and the pair is within a constant of the paper's max(rho, 1 - gamma)^t."""
    problem, start, sizes = problem_of(seed, shared=True)
    best = problem.minimizers[0]
    shares = problem.floors / problem.floors.sum()
    run = descend(problem, start, sizes, learning_rate=learning_rate, mixing_rate=mixing_rate, steps=400)
    rho = max(abs(1 - learning_rate * SMALLEST), abs(1 - learning_rate * LARGEST))
    t = np.arange(401)
    first = np.linalg.norm(start - best)
    assert (np.linalg.norm(run.thetas - best, axis=1) <= rho**t * first * (1 + 1e-9) + 1e-12).all()
    # |L(theta) / 1'L - shares|_1 <= 2 (1'L(theta) - 1'b) / 1'b <= K L |theta - c|^2 / 1'b
    pull = len(shares) * LARGEST * first**2 / problem.floors.sum() * rho ** (2 * t)
    bound = np.empty(401)
    bound[0] = np.abs(run.proportions[0] - shares).sum()
    for step in range(400):
        bound[step + 1] = (1 - mixing_rate) * bound[step] + mixing_rate * pull[step]
    assert (np.abs(run.proportions - shares).sum(axis=1) <= bound * (1 + 1e-9) + 1e-12).all()
    assert bound[-1] < max(rho, 1 - mixing_rate) ** 400 * (1 + 400 * pull[0])


@settings(max_examples=50)
@given(seed=seeds, learning_rate=st.floats(0.02, 1.0 / LARGEST), mixing_rate=st.floats(0.02, 0.2))
def test_the_iteration_converges_to_the_joint_fixed_point_at_the_rate_of_its_jacobian(
    seed: int, learning_rate: float, mixing_rate: float
) -> None:
    """The minimizers differ here. The slope of the log distance is that of the spectral radius."""
    problem, start, sizes = problem_of(seed, shared=False)
    rate = problem.rate(learning_rate, mixing_rate)
    assert rate < 1  # gamma <= 0.2 < 2 / (1 + 2 L / mu)
    steps = int(np.ceil(np.log(1e-9) / np.log(rate)))
    run = descend(problem, start, sizes, learning_rate=learning_rate, mixing_rate=mixing_rate, steps=steps)
    theta, proportions = problem.fixed_point()
    away = distances(run, theta, proportions)
    assert away[-1] < 1e-6
    np.testing.assert_allclose(run.proportions[-1] @ problem.gradients(run.thetas[-1]), 0, atol=1e-4)
    assume((away > 1e-11).all())  # below, rounding dominates the slope
    slope = np.log(away[-1] / away[steps // 2]) / (steps - steps // 2)
    assert slope == pytest.approx(np.log(rate), rel=0.3)


def test_the_measured_rate_is_that_of_the_paper_if_mixing_is_slow() -> None:
    """With gamma small and one minimizer, the log distance falls by log(1 - gamma) per step, the paper's bound."""
    problem, start, sizes = problem_of(7, shared=True)
    run = descend(problem, start, sizes, learning_rate=0.25, mixing_rate=0.05, steps=300)
    away = distances(run, problem.minimizers[0], problem.floors / problem.floors.sum())
    slope = np.polyfit(np.arange(100, 301), np.log(away[100:]), 1)[0]
    assert slope == pytest.approx(np.log(0.95), rel=1e-3)
    assert problem.rate(0.25, 0.05) == pytest.approx(0.95)


def test_the_limit_is_not_that_of_classical_training() -> None:
    """If minimizers differ, theta* is not the minimizer of the data's mixture, and class sizes do not matter."""
    problem = Quadratics(np.ones((2, 1, 1)), np.array([[1.0], [-1.0]]), np.array([0.1, 0.3]))
    ends = []
    for sizes in ([900, 100], [100, 900]):
        run = descend(problem, np.zeros(1), np.array(sizes), learning_rate=0.1, mixing_rate=0.05, steps=2000)
        ends.append(run.thetas[-1])
        assert abs(run.thetas[-1] - problem.minimizer(np.array(sizes) / 1000)) > 0.5
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-9)
    np.testing.assert_allclose(ends[0], problem.fixed_point()[0], atol=1e-9)


def test_the_conditions_of_the_proposition_do_not_suffice_if_minimizers_differ() -> None:
    """With eta < 2 / L* and gamma < 1 the iteration cycles, as its Jacobian predicts; with a smaller gamma it converges."""
    problem = Quadratics(np.ones((2, 1, 1)), np.array([[1.0], [-1.0]]), np.array([0.01, 0.012]))
    theta, proportions = problem.fixed_point()
    for mixing_rate, converges in ((0.9, False), (0.3, True)):
        run = descend(problem, theta + 0.01, np.array([1, 1]), learning_rate=1.0, mixing_rate=mixing_rate, steps=2000)
        assert (problem.rate(1.0, mixing_rate) < 1) == converges
        away = distances(run, theta, proportions)[-100:]
        assert away.max() < 1e-9 if converges else away.min() > 0.1


@settings(max_examples=50)
@given(seed=seeds)
def test_slow_mixing_has_the_documented_eigenvalues_and_bound(seed: int) -> None:
    problem, _, _ = problem_of(seed, shared=False)
    theta, proportions = problem.fixed_point()
    gradients, losses = problem.gradients(theta), problem.losses(theta)
    hessian = np.tensordot(proportions, problem.curvatures, 1)
    # In ascending order; the first is 0 and belongs to alpha*, the direction that changes the sum of the proportions.
    pulls = np.linalg.eigvalsh(gradients @ np.linalg.solve(hessian, gradients.T)) / losses.sum()
    assert pulls[-1] <= 2 * LARGEST / SMALLEST
    assert 1 - problem.rate(1 / LARGEST, 1e-4) == pytest.approx(1e-4 * (1 + pulls[1]), rel=0.01)


def test_loader_and_torch_converge_to_the_fixed_point_of_the_class_losses() -> None:
    """In linear regression with a line and noise per class, the class losses are quadratics."""
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(3), [1500, 400, 100])
    lines, noise = rng.normal(size=(3, 5)), np.array([0.3, 0.6, 1.2])
    x = np.column_stack([rng.normal(size=(2000, 4)), np.ones(2000)])
    y = (x * lines[classes]).sum(axis=1) + noise[classes] * rng.normal(size=2000)
    fits = [np.linalg.lstsq(x[classes == k], y[classes == k]) for k in range(3)]
    sizes = np.bincount(classes)
    problem = Quadratics(
        np.array([2 * x[classes == k].T @ x[classes == k] / sizes[k] for k in range(3)]),
        np.array([fit[0] for fit in fits]),
        np.array([fit[1][0] / size for fit, size in zip(fits, sizes, strict=True)]),
    )
    theta, proportions = problem.fixed_point()
    weights = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=0.01)
    data = {"x": torch.from_numpy(x), "y": torch.from_numpy(y)}
    with Loader(data, batch_size=100, classes=classes, mixing=Learn2Mix(0.1), seed=0) as loader:
        np.testing.assert_allclose(loader.proportions, [0.75, 0.2, 0.05])
        for _ in range(80):
            for batch in loader:
                losses = (batch["x"] @ weights - batch["y"]).square()
                loader.record(losses)
                optimizer.zero_grad()
                losses.mean().backward()
                optimizer.step()
        np.testing.assert_allclose(loader.proportions, proportions, atol=0.02)
        np.testing.assert_allclose(weights.detach().numpy(), theta, atol=0.1)
    # Classical training would converge to another point, farther away than the noise of mini-batches.
    assert np.linalg.norm(problem.minimizer(sizes / sizes.sum()) - theta) > 0.5
