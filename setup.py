"""Package metadata of demp_jax."""

import pathlib
import re

from setuptools import find_packages, setup

# A placeholder until the repository is published. docs/conf.py and the tests read it here. The notebooks, the README's
# badges and CITATION.cff repeat it, and the tests compare them with it.
URL = "https://github.com/demp-jax/demp_jax"

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "demp_jax" / "__init__.py").read_text())
# Links to files of the repository also work on PyPI.
README = re.sub(r"\]\((?!https?:|#)", f"]({URL}/blob/main/", (HERE / "README.md").read_text())

setup(
    name="demp_jax",
    version=VERSION.group(1) if VERSION else None,
    description="Training neural networks that get smaller while they train: Demon Pruning (DemP) for JAX and Flax",
    long_description=README,
    long_description_content_type="text/markdown",
    author="The demp_jax Authors",
    url=URL,
    project_urls={
        "Documentation": f"{URL}/blob/main/docs/index.md",
        "Issues": f"{URL}/issues",
        "Changelog": f"{URL}/blob/main/CHANGELOG.md",
    },
    license="Apache-2.0",
    keywords="jax flax equinox optax pruning structured-pruning sparsity dead-neurons dense-to-sparse-training",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # With this, an editable install adds this folder to the path. Otherwise, setuptools installs an import hook, which
    # comes after the path, and `import demp_jax` in the parent of the clone would import the clone as a namespace
    # package.
    package_dir={"": "."},
    # Configs, experiments and tests are run from the repository; the library alone is installed.
    packages=find_packages(include=["demp_jax", "demp_jax.*"]),
    package_data={"demp_jax": ["py.typed"]},
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "jaxtyping>=0.3.7",
        "optax>=0.2.8",
        "numpy>=2.0",
        "scipy>=1.13",
    ],
    extras_require={
        # Dependencies of the training program.
        "experiments": [
            "absl-py>=2.1",
            "array_record>=0.8",
            "flatbuffers>=24.3",  # jax.export serializes with it.
            "grain>=0.2.12",
            "importlib_resources>=6.0",  # tensorflow-datasets downloads with it.
            "matplotlib>=3.9",
            "ml_collections>=1.1",
            "orbax-checkpoint>=0.12.8",
            "pillow>=11.0",
            "rich>=13.0",
            "safetensors>=0.5",
            "scikit-learn>=1.5",
            "tensorboardX>=2.6.2",
            "tensorflow-datasets>=4.9.9",
        ],
        "slurm": ["submitit>=1.5"],  # For `experiments.sweep --launcher=slurm`.
        "wandb": ["wandb>=0.19"],  # For `config.tracker`.
        "cuda": ["jax[cuda13]>=0.10.2"],
        "docs": ["furo>=2025.12", "myst-nb>=1.4", "math-core>=0.9", "myst-parser>=5.0", "sphinx>=9.0"],
        "equinox": ["equinox>=0.13"],
        # jax2onnx after 0.13.0 does not allow Orbax after 0.11.36, although it does not use Orbax.
        "onnx": ["jax2onnx>=0.13.0", "onnxruntime>=1.24.1"],
        "test": [
            "beartype>=0.22.2",
            "codespell>=2.4",
            "demp_jax[onnx]",
            "equinox>=0.13",
            "hypothesis>=6.130",
            "ipykernel>=7.0",
            "mypy>=1.15",
            "nbclient>=0.10",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff>=0.11",
        ],
    },
)
