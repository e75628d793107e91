"""warm.py for campaigns of compare and synthetic, whose figures take longer than all the rest: they
are smaller here, and written in the same way.
"""

import warm

from minimixce.experiments import plots

new_figure = plots.new_figure


def new_small_figure(**options):
    return new_figure(**options | {"layout": None, "figsize": (2, 2)})


plots.new_figure = new_small_figure

if __name__ == "__main__":
    warm.main()
