# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Access to datasets prepared by tensorflow-datasets as array_record, without TensorFlow."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

from absl import logging as absl_logging

from experiments.core.errors import UsageError


@contextlib.contextmanager
def open_builder(name: str, folder: str, *, download: bool = True) -> Iterator[Any]:
    """Yields the builder of a prepared dataset, which is downloaded first if necessary.

    Args:
      name: name of the dataset in tensorflow-datasets.
      folder: value of `config.data.dir`. If empty, TFDS_DATA_DIR or else the default of tensorflow-datasets is used.
      download: whether a missing dataset may be downloaded.

    Raises:
      UsageError: if the data is missing, or reading it within the context fails.
    """
    import tensorflow_datasets as tfds

    where = folder_of(name, folder)
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.FATAL)  # Silences recommendations of packages and file layouts.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        builder = tfds.builder(name, data_dir=where or None)
        if not builder.is_prepared():
            if not download:
                raise FileNotFoundError(f"no prepared {name} of version {builder.version}")
            _require_network()
            builder.download_and_prepare(file_format="array_record")
        yield builder
    except UsageError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UsageError(
            f"config.data.name={name!r} is not in {where or 'the default folder of tensorflow-datasets'} and could "
            f"not be prepared ({type(error).__name__}: {reason}). Set --config.data.dir or TFDS_DATA_DIR to a folder "
            f"with {name} prepared in the array_record format."
        ) from error
    finally:
        absl_logging.set_verbosity(verbosity)


def folder_of(name: str, folder: str) -> str:
    """Returns the folder of tensorflow-datasets: `folder`, TFDS_DATA_DIR, or "" for the default.

    Raises:
      UsageError: if the folder does not exist.
    """
    where = os.path.expanduser(folder or os.environ.get("TFDS_DATA_DIR", ""))
    if where and not os.path.isdir(where):
        field = "config.data.dir" if folder else "TFDS_DATA_DIR"
        raise UsageError(
            f"{field} must be a folder that holds {name}/ as prepared by tensorflow-datasets; "
            f"got {where!r}, which does not exist."
        )
    return where


def _require_network() -> None:
    """Raises `OSError` within seconds without a network. A download would retry for minutes."""
    with socket.create_connection(("storage.googleapis.com", 443), timeout=5):
        pass
