"""python -m minimixce, the same as the command minimixce."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
