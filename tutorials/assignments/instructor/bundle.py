"""Make a bundle for a class without a network: python tutorials/assignments/instructor/bundle.py OUT, a folder or a .zip file

Wheels for this Python and platform (which needs a network, once), lessons, handouts, starters, slides without notes, the site.
"""

import argparse
from pathlib import Path

from minimixce.classroom import bundle

ROOT = Path(__file__).resolve().parents[3]


def variant(text):
    """ "a2=3" -> ("a2", 3)."""
    name, _, number = text.partition("=")
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(f"must be as a2=3, got {text!r}")
    return name, int(number)


def main(arguments=None):
    """Make it."""
    parser = argparse.ArgumentParser(description="Make a bundle for a class without a network.")
    parser.add_argument("out", type=Path, help="a folder, or a file that ends in .zip")
    parser.add_argument(
        "--variant", type=variant, action="append", default=[], metavar="NAME=K", help="as a2=3; may be repeated"
    )
    parser.add_argument("--extras", default=",".join(bundle.EXTRAS), help="of the package, with commas (default: %(default)s)")
    parser.add_argument("--no-wheels", action="store_true", help="leave the wheels out; no network is needed then")
    parser.add_argument("--site", default="fast", help="a folder with the site, or fast: build it with a tenth of the work")
    parser.add_argument("--no-site", action="store_true", help="leave the site out")
    given = parser.parse_args(arguments)
    extras = [extra for extra in given.extras.split(",") if extra]
    site = None if given.no_site else given.site
    try:
        bundle.make(given.out, ROOT, variants=dict(given.variant), wheels=not given.no_wheels, extras=extras, site=site)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(given.out)


if __name__ == "__main__":
    main()
