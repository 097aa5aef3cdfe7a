"""A network as an ONNX file, for runtimes other than JAX. Needs the extra ``onnx``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from attnseg.core.errors import UserError
from attnseg.infer.export import Server, Sizes
from attnseg.ops.platforms import plain_convolutions

INPUT, OUTPUT = "images", "result"


def _require(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"ONNX files need {name}, which is not installed; pip install 'attnseg[onnx]'."
        ) from error


def require_onnx() -> None:
    """Raises `UserError` unless what writes and checks ONNX files is installed."""
    _require("jax2onnx")
    _require("onnxruntime")


def to_onnx(server: Server, sizes: Sizes) -> bytes:
    """The model as a serialised ONNX graph with the input `INPUT` and the output `OUTPUT`.

    Raises:
      UserError: the extra is not installed, or an operation has no counterpart in ONNX.
    """
    require_onnx()
    convert = _require("jax2onnx").to_onnx
    # It warns of every inner shape that it leaves to the runtime.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    with plain_convolutions():
        try:
            graph = convert(
                lambda images: server.serve(images),  # a new function: no trace is kept of it
                [sizes.symbolic(server.dtype)],
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
        except NotImplementedError as error:
            raise UserError(
                f"the network has an operation that ONNX does not get ({error}); export it as "
                "stablehlo."
            ) from error
    return graph.SerializeToString()


def run_onnx(graph: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """What the graph computes in onnxruntime on the CPU."""
    session = _require("onnxruntime").InferenceSession(graph, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]
