"""What ``import gradvitals`` and ``gradvitals --help`` take, in turns with the bare interpreter and NumPy.

python benchmarks/import_cost.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15
RUNS = {
    "bare interpreter": [sys.executable, "-c", "pass"],
    "import numpy": [sys.executable, "-c", "import numpy"],
    "import gradvitals": [sys.executable, "-c", "import gradvitals"],
    "the verbs": [sys.executable, "-c", "import gradvitals; gradvitals.checkup, gradvitals.init_"],
    "gradvitals --help": [str(Path(sys.executable).with_name("gradvitals")), "--help"],
}


def milliseconds(arguments):
    started = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - started)


def main():
    rounds = [{name: milliseconds(arguments) for name, arguments in RUNS.items()} for _ in range(ROUNDS)]
    print("| what | median ms | least ms |")
    print("|---|---|---|")
    for name in RUNS:
        taken = [one[name] for one in rounds]
        print(f"| {name} | {statistics.median(taken):.0f} | {min(taken):.0f} |")


if __name__ == "__main__":
    main()
