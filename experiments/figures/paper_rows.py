# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The rows of the paper's tables 1 to 3."""

from __future__ import annotations

import json
from typing import Any

# Test accuracy and its standard deviation, neuron and weight sparsity, all in percent; then relative to dense training:
# time, training FLOPs, inference FLOPs, and inference FLOPs of a GPU, which does not skip zeros.
COLUMNS = ("accuracy", "std", "neuron", "weight", "time", "train_flops", "flops", "gpu_flops")


def _rows(source: str, text: str) -> tuple[dict[str, Any], ...]:
    """Parses a table of `method | columns`; a column of `-` is one that the paper leaves out."""
    rows = []
    for line in text.strip().splitlines():
        method, columns = line.split("|")
        values = [None if cell == "-" else json.loads(cell) for cell in columns.split()]
        rows.append({"method": method.strip(), "source": source, **dict(zip(COLUMNS, values, strict=True))})
    return tuple(rows)


TABLE1 = _rows(
    "paper, table 1",
    """
Dense       | 74.98  0.08     -     -   1.0   1.0   1.0     -
SNAP        | 28.28  0.08  36.9  81.4  0.51  0.32  0.32     -
SNAP        | 27.17  0.07  56.0  90.1  0.48  0.25  0.25     -
CroPit-S    | 28.34  0.52  36.9  81.4  0.52  0.32  0.32     -
CroPit-S    | 27.36  0.16  53.2  89.9  0.47  0.27  0.27     -
EarlySNAP   | 68.67  0.15  51.7 80.37  0.95  0.63  0.63     -
EarlySNAP   |  63.8  0.58  66.6 90.06  0.75  0.46  0.45     -
EarlyCroP-S | 68.26  0.31  51.6 79.97  0.94  0.66  0.66     -
EarlyCroP-S |  64.2  0.27  66.6 90.37  0.82  0.51   0.5     -
DemP-L2     | 71.52  0.09 61.83 80.13  0.81  0.57  0.49     -
DemP-L2     | 66.34  0.16  74.1 89.93  0.61  0.42  0.34     -
""",
)
TABLE2 = _rows(
    "paper, table 2",
    """
Dense             | 75.62  0.28     -     -   1.0   1.0   1.0   1.0
SNAP              | 26.05  0.17  36.9  81.4  0.54  0.33  0.33  0.33
SNAP              | 24.84  0.11 56.07  90.1  0.47  0.25  0.25  0.25
CroPit-S          | 25.93  0.06  36.9  81.4   0.5  0.31  0.31  0.31
CroPit-S          | 25.44  0.05  53.2  89.8  0.49  0.26  0.26  0.26
EarlySNAP         | 70.06  0.16 38.73 79.97  0.87  0.57  0.56  0.56
EarlySNAP         | 64.25   0.1 57.23 89.73  0.78  0.44  0.44  0.44
EarlyCroP-S       | 71.45  0.29 41.13 79.77  0.86  0.61  0.61  0.61
EarlyCroP-S       | 67.04  0.18 58.77 90.07   0.8  0.48  0.48  0.48
DemP-Lasso(gamma) | 72.21  0.19  53.5 79.43  0.88  0.62  0.58  0.58
DemP-Lasso(gamma) | 67.76  0.12 68.51 89.73  0.69  0.46  0.41  0.41
""",
)
TABLE3 = _rows(
    "paper, table 3",
    """
Dense       | 78.75     -     -     -   1.0     -     -     -
DemP        | 71.38     -  90.6  59.4  0.77     -     -     -
DemP + ReLU | 77.62     -  43.7  29.6  0.93     -     -     -
""",
)
QUOTED = _rows(
    "quoted by the paper in table 2",
    """
Dense (Lee et al., 2023) | 76.67 - - - - - - -
Dense (Evci et al., 2020; Lasby et al., 2024; Yin et al., 2023) | 76.8 0.09 - - - 1.0 1.0 1.0
Mag (Lee et al., 2023) | 75.53 - - 80 - - - 1.0
Sal (Lee et al., 2023) | 74.93 - - 80 - - - 1.0
SET (Evci et al., 2020) | 72.9 0.39 - 80 - 0.23 0.23 1.0
SET (Evci et al., 2020) | 69.6 0.23 - 90 - 0.1 0.1 1.0
RigL, ERK (Evci et al., 2020) | 75.1 0.05 - 80 - 0.42 0.42 1.0
RigL, ERK (Evci et al., 2020) | 73.0 0.04 - 90 - 0.25 0.24 1.0
SRigL (Lasby et al., 2024; neuron sparsity and FLOPs of a GPU approximate) | 75.01 - 2 80 - 0.36 0.41 1.0
SRigL (Lasby et al., 2024; neuron sparsity and FLOPs of a GPU approximate) | 72.71 - 5 90 - 0.24 0.24 1.0
Chase (Yin et al., 2023) | 75.27 - 40 80 - 0.39 0.37 0.68
Chase (Yin et al., 2023) | 74.03 - 40 90 - 0.26 0.23 0.67
""",
)
