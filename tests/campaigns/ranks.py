"""Kill random ranks of random jobs at random moments, and go on with another number of ranks.

    python tests/campaigns/ranks.py --kills 25 --seed 1

Every kill must end the job with an error within 30 seconds, and leave a state that goes on. What
was found is kept by seed in ranks.json beside this file. pytest kills two (tests/test_mpi.py).
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from test_mpi import kill_one

FOUND = Path(__file__).with_suffix(".json")
# ranks of the job, and of the one that goes on
SIZES = ((2, 1), (2, 2), (2, 3), (3, 2))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    drawn, wrong, started = random.Random(given.seed), [], time.monotonic()
    for k in range(given.kills):
        sizes = drawn.choice(SIZES)
        with tempfile.TemporaryDirectory() as place:
            text = Path(place) / "story.txt"
            text.write_text("The cat sat on the mat. The dog sat on the log.\n" * 60)
            try:
                kill_one(drawn, Path(place) / "run", text, sizes)
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                wrong.append({"kill": k, "sizes": sizes, "what": what})
        print(f"{k + 1} kills, {len(wrong)} wrong", flush=True)
    found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    seconds = round(time.monotonic() - started)
    found[str(given.seed)] = {"kills": given.kills, "wrong": wrong, "seconds": seconds}
    FOUND.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
