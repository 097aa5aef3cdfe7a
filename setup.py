"""Installation of attnseg: `pip install -e .` (CPU) or `pip install -e '.[cuda12]'`."""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

setup(
    name="attnseg",
    version="0.1.0",
    description="Attention-based image segmentation and classification in JAX and Flax",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["attnseg", "attnseg.*"]),
    install_requires=[
        "absl-py>=2.1",
        "array-record>=0.8",
        "clu>=0.0.12",
        "einops>=0.8",
        "flatbuffers>=24.3",  # jax.export writes with it
        "flax>=0.12",
        "grain>=0.2.15",
        "importlib_resources>=6.4",  # used by tensorflow-datasets, which does not declare it
        "jax>=0.10",
        "matplotlib>=3.9",
        "ml-collections>=1.1",
        "numpy>=2.0",
        "opencv-python-headless>=4.10",
        "optax>=0.2.6",
        "pillow>=10.3",
        "orbax-checkpoint>=0.11.25",
        "rich>=13.7",
        "safetensors>=0.5",
        "tensorboardX>=2.6.4",
        "tensorflow-datasets>=4.9.9",
    ],
    extras_require={
        "cuda12": ["jax[cuda12]>=0.10"],
        "cuda13": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        "test": [
            "hypothesis>=6.100",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff>=0.14",
            "scikit-learn>=1.5",
        ],
        "torch": ["torch>=2.6"],  # reads .pth and .bin weight files
        "prepare": ["tensorflow-cpu>=2.18"],  # only to prepare stock TFDS data sets
        "onnx": ["jax2onnx>=0.17", "onnxruntime>=1.20"],
        "huggingface": ["torch>=2.6", "transformers>=4.46"],  # only to try what is exported
        "demo": ["gradio>=6.0"],  # launch/demo.py
        "demo-test": ["gradio>=6.0", "selenium>=4.20"],  # its test, with chromium and chromedriver
        "peers": [  # what launch/benchmark.py measures beside ours
            "keras>=3.10",
            "keras-hub>=0.32",
            "timm>=1.0",
            "torch>=2.6",
            "transformers>=4.57",
        ],
        "notebook": ["ipykernel>=6.29", "ipywidgets>=8.1", "jupyterlab>=4.3"],
    },
)
