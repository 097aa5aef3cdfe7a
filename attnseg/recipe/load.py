"""From a configuration file and overrides to a checked, locked ConfigDict, and to JSON."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from attnseg.core.errors import UserError, check, did_you_mean
from attnseg.data.randaugment import parse_randaugment
from attnseg.data.transforms import check_scale_step
from attnseg.recipe import defaults
from attnseg.recipe.values import check_elements, check_numbers, fit
from attnseg.recipe.views import eval_views


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """``{"section.key": value}`` of every key."""
    found = {}
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def override(config: ConfigDict, changes: Mapping[str, Any]) -> None:
    """Sets dotted keys, e.g. ``{"train.steps": 10}``.

    Raises:
      UserError: unknown key, with the nearest one, or a value of another type.
    """
    known = leaves(config)
    for key, value in changes.items():
        check(
            key in known,
            f'unknown configuration key "{key}".{did_you_mean(key, known)} '
            "`python launch/show.py config --config=FILE` lists all keys.",
        )
        section, _, name = key.rpartition(".")
        node = config
        for part in section.split(".") if section else []:
            node = node[part]
        node[name] = fit(key, value, node.get_type(name))


def validate(config: ConfigDict) -> None:
    """Checks values against the allowed ones.

    Raises:
      UserError: a value out of range.
    """
    values = leaves(config)
    check_numbers(values)
    # None means something only where it is the default.
    usual = leaves(defaults.get_config("segformer_b0"))
    empty = [key for key, value in values.items() if value is None and usual.get(key) is not None]
    check(not empty, f"{', '.join(empty)} has no value; give one, or leave the key out.")
    check_elements(config, values)
    for key, allowed in defaults.CHOICES.items():
        check(
            values[key] in allowed,
            f'{key}="{values[key]}" is not known.{did_you_mean(values[key], allowed)} '
            f"Allowed: {', '.join(allowed)}.",
        )
    for key, least in defaults.MINIMA.items():
        check(values[key] >= least, f"{key}={values[key]} is too small; use at least {least:g}.")
    for key in defaults.SHARES:
        check(0 <= values[key] <= 1, f"{key}={values[key]} is not a share; use 0 to 1.")
    for key in ("data.crop", "data.resize", "eval.resize", "eval.window", "eval.stride"):
        size = values[key]
        if size is not None:
            ok = len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)
            check(ok, f"{key}={size} is not a size; use two positive integers (height, width).")
    for key in ("data.scale", "augment.rrc_scale", "augment.rrc_ratio"):
        _check_range(key, values[key])
    scales = values["eval.scales"]
    ok = len(scales) > 0 and all(_is_number(scale) and scale > 0 for scale in scales)
    check(ok, f"eval.scales={scales} are not factors; use positive numbers, (1.0,) for none.")
    eval_views(config)
    check_scale_step(values["data.scale"], values["data.scale_step"])
    check(
        values["augment.rrc_scale"][1] <= 1,
        f"augment.rrc_scale={values['augment.rrc_scale']} reaches over the image; use at most 1.",
    )
    check(values["eval.crop_pct"] > 0, "eval.crop_pct=0 shows nothing; use more than 0, to 1.")
    if values["augment.randaugment"]:
        parse_randaugment(values["augment.randaugment"])
    check(values["optim.layer_decay"] > 0, "optim.layer_decay=0 stops all but the head; use 1.")
    check(
        values["train.epochs"] is None or values["train.epochs"] > 0,
        f"train.epochs={values['train.epochs']} is too short; use more than 0, or train.steps.",
    )
    betas = values["optim.betas"]
    ok = len(betas) == 2 and all(_is_number(b) and 0 <= b < 1 for b in betas)
    check(ok, f"optim.betas={betas} are not two numbers from 0 to below 1.")
    for rule in values["optim.rules"]:
        _check_rule(rule)
    parts, batch = values["train.accumulate"], values["data.batch_size"]
    check(
        batch % parts == 0,
        f"data.batch_size={batch} does not split into train.accumulate={parts} parts; "
        f"use a multiple of {parts}.",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_range(key: str, value: Any) -> None:
    ok = len(value) == 2 and all(map(_is_number, value)) and 0 < value[0] <= value[1]
    check(ok, f"{key}={value} is not a range; use two numbers, 0 < low <= high.")


def _check_rule(rule: Any) -> None:
    ok = isinstance(rule, tuple) and len(rule) == 3 and isinstance(rule[0], str)
    ok = ok and _is_number(rule[1]) and isinstance(rule[2], bool)
    check(ok, f"optim.rules: {rule!r} is not (regex, learning-rate factor, weight decay?).")
    try:
        re.compile(rule[0])
    except re.error as error:
        raise UserError(f'optim.rules: "{rule[0]}" is no regular expression ({error}).') from error


def load_config(path: str, changes: Mapping[str, Any] | None = None) -> ConfigDict:
    """Reads ``FILE.py`` or ``FILE.py:ARGUMENT``, applies `changes`, checks and locks.

    Args:
      path: a file with ``get_config``; what follows the colon is its argument (the data set).
      changes: dotted keys to values.

    Raises:
      UserError: no such file, unknown key or value.
    """
    file, _, argument = path.partition(":")
    check(Path(file).is_file(), f'there is no configuration file "{file}".')
    spec = importlib.util.spec_from_file_location("attnseg_config", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{file} line {error.lineno} is no Python: {error.msg}.") from error
    check(hasattr(module, "get_config"), f"{file} has no function get_config.")
    config = module.get_config(argument) if argument else module.get_config()
    config.lock()
    override(config, changes or {})
    validate(config)
    return config


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Plain dicts and lists, as JSON holds them."""
    return json.loads(config.to_json())


def from_dict(saved: dict[str, Any], changes: Mapping[str, Any] | None = None) -> ConfigDict:
    """The locked configuration a run was started with, from its ``config.json``, with `changes`.

    Raises:
      UserError: keys that this version does not know.
    """
    name = saved["model"]["name"]
    check(isinstance(name, str), f"model.name={name!r} is no name of a model.")
    config = defaults.get_config(name)
    config.lock()
    flat = {}

    def walk(node: dict[str, Any], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            elif value is not None:
                flat[prefix + key] = _tuples(value)

    walk(saved, "")
    override(config, flat | dict(changes or {}))
    validate(config)
    return config


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
