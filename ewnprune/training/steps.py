r"""Gradient descent on ``(s, v)``, computed on the weight ``w = scale(s) * v / ||v||`` itself.

One step of gradient descent on the parametrized network moves the weight ``w`` of a neuron with
gradient ``g`` to a place that depends on ``w``, ``g`` and one number ``n = ||v||^2``, as follows:

    t  = lr * ||w||^2 / n,   Pg = g - w (w.g) / ||w||^2,   rho^2 = 1 + (t / ||w||)^2 ||Pg||^2
    w' = radial * (w - t Pg) / rho,   n' = n rho^2
    radial = exp(-lr w.g) for EWN,   1 - lr (w.g) / ||w||^2 for SWN

It follows from eqs. (1)-(4) of Morwani & Ramaswamy, https://arxiv.org/abs/2010.12909, by
eliminating ``s`` and the direction of ``v``.

Deep down a step changes a norm by less than float32 tells from 1, and a factor near 1 would be
rounded to the same side step after step. So the change is computed, never the factor, and added to
the weight at once: what is lost of it is then rounded up as often as down.
"""

from typing import Literal, NamedTuple

from torch import Tensor

from ewnprune.errors import check_choice

Method = Literal["EWN", "SWN"]


class Change(NamedTuple):
    """What a step adds, by neuron: ``w += kappa * w - move * g`` and ``n += n * more``.

    Attributes:
        kappa: the share of the weight that is added to it.
        move: the factor of the gradient.
        more: by what fraction ``n`` grows.
    """

    kappa: Tensor
    move: Tensor
    more: Tensor


def change(
    ww: Tensor,
    wg: Tensor,
    gg: Tensor,
    n: Tensor,
    lr: float | Tensor,
    weight_decay: float,
    method: Method,
) -> Change:
    """The step of neurons of which the products of ``w`` and ``g`` are known.

    Args:
        ww: ``||w||^2``.
        wg: ``w.g``.
        gg: ``||g||^2``.
        n: ``||v||^2``.
        lr: learning rate.
        weight_decay: the factor of ``||w||^2 / 2`` in the objective.
        method: "EWN" or "SWN".
    """
    cosine_part = wg / ww.masked_fill(ww == 0, 1.0)
    tangent = (gg - wg * cosine_part).clamp_min(0)  # ||Pg||^2
    rate = lr / n
    t = rate * ww
    more = t * rate * tangent
    log_rho = more.log1p() / 2
    if method == "EWN":
        log_factor = -lr * (wg + weight_decay * ww if weight_decay else wg) - log_rho
        factor = log_factor.exp()
        return Change(log_factor.expm1() + t * cosine_part * factor, factor * t, more)
    shrink = lr * (cosine_part + weight_decay)
    # (1 - shrink) (1 + t cosine_part) - 1; t and lr are alike, and their difference is exact
    p = (t - lr) * cosine_part - shrink * t * cosine_part
    if weight_decay:
        p = p - lr * weight_decay
    q = (-log_rho).expm1()
    return Change(p + (1 + p) * q, (1 - shrink) * (1 + q) * t, more)


def squares_after(ww: Tensor, wg: Tensor, lr: float | Tensor, method: Method) -> Tensor:
    """``||w||^2`` after a step without weight decay, which depends on the radial part alone."""
    if method == "EWN":
        return ww * (-2 * lr * wg).exp()
    return ww * (1 - lr * wg / ww.masked_fill(ww == 0, 1.0)).square()


def weight_space_step(
    w: Tensor, g: Tensor, n: Tensor, lr: float | Tensor, method: Method
) -> tuple[Tensor, Tensor]:
    """One step of gradient descent on the parametrized network, seen from its weights.

    Args:
        w: weights, ``(..., neurons, inputs)``.
        g: gradient of the loss with respect to ``w``.
        n: ``||v||^2`` of each neuron, ``(..., neurons, 1)``; 1 at the start of training.
        lr: a number, or a tensor that broadcasts against ``n``.
        method: "EWN" or "SWN".

    Returns:
        The new weights and the new ``n``. A row of zeros has no direction and stays as it is.

    Raises:
        ValueError: another method.

    >>> import torch
    >>> w, n = torch.tensor([[3.0, 4.0]]), torch.ones(1, 1)
    >>> weight_space_step(w, -w, n, 0.01, "EWN")  # along w: exp(0.25) times as long
    (tensor([[3.8521, 5.1361]]), tensor([[1.]]))
    """
    check_choice("method", method, Method)
    ww, wg, gg = (x.sum(-1, keepdim=True) for x in (w.square(), w * g, g.square()))
    kappa, move, more = change(ww, wg, gg, n, lr, 0.0, method)
    return w + (kappa * w - move * g), n + n * more
