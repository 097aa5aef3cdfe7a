"""Optimizers whose weight decay, rate and freezing follow rules over parameter names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from attnseg.core.errors import check
from attnseg.core.tree import match_rules
from attnseg.training.layer_decay import layer_factors

OPTIMIZERS = ("adamw", "adam", "sgd")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What applies to the parameters whose name the pattern is found in."""

    pattern: str  # regular expression over names like "backbone/stage1_norm/scale"
    lr_scale: float = 1.0  # factor of the learning rate; 0 freezes
    weight_decay: bool = True  # whether the decay applies


def _per_leaf(function: Callable, values: Any) -> optax.GradientTransformation:
    """Stateless transformation ``function(update, param, value)`` leaf by leaf."""
    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map(function, updates, params, values)
    )


def make_optimizer(
    name: str,
    *,
    schedule: optax.Schedule,
    rules: Sequence[Rule],
    params: Any,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    momentum: float = 0.9,
    nesterov: bool = False,
    clip_norm: float = 0.0,
    layer_decay: float = 1.0,
) -> optax.GradientTransformation:
    """Builds the chain: freeze, clip, direction, decay, rate.

    Args:
      name: "adamw" (decoupled decay), "adam" or "sgd" (momentum); the latter two add the decay to
        the gradient, as torch does.
      schedule: learning rate by step.
      rules: first match decides; every parameter must be covered.
      params: parameters or their shapes, for their names.
      weight_decay: decay of the parameters whose rule says so.
      betas, epsilon: of Adam.
      momentum, nesterov: of SGD, as torch has them; momentum 0 is plain descent.
      clip_norm: largest global norm of the gradient; 0 does not clip.
      layer_decay: factor on the rate from each block of the backbone to the one before it, besides
        that of the rules; see `attnseg.training.layer_decay`.

    Raises:
      UserError: unknown optimizer, a parameter without a rule or a rule without a parameter.
    """
    check(name in OPTIMIZERS, f'optim.name="{name}" is none of {", ".join(OPTIMIZERS)}.')
    matched = match_rules([(rule.pattern, rule) for rule in rules], params, "optim.rules")

    def each(function: Callable[[Rule], float]) -> Any:
        return jax.tree_util.tree_map(function, matched)

    decay = each(lambda rule: weight_decay * rule.weight_decay)
    rate = each(lambda rule: rule.lr_scale)
    if layer_decay != 1.0:
        factors = layer_factors(params, layer_decay)
        rate = jax.tree_util.tree_map(lambda r, f: r * f, rate, factors)
    add_decay = _per_leaf(lambda u, p, d: u + d * p if d else u, decay)
    direction = {
        "adamw": [optax.scale_by_adam(*betas, eps=epsilon), add_decay],
        "adam": [add_decay, optax.scale_by_adam(*betas, eps=epsilon)],
        "sgd": [add_decay, optax.trace(decay=momentum, nesterov=nesterov)],
    }[name]
    return optax.chain(
        # Before clipping, so that frozen parameters do not count in the norm.
        _per_leaf(lambda u, _, r: u if r else u * 0.0, rate),
        *([optax.clip_by_global_norm(clip_norm)] if clip_norm else []),
        *direction,
        _per_leaf(lambda u, _, r: u * r, rate),
        optax.scale_by_learning_rate(schedule),
    )
