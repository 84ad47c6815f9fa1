"""Draw the README's picture of the family: ``python docs/family.py`` writes docs/family.svg, the same every time."""

from pathlib import Path

import matplotlib as mpl

from minideepseek.viz.family import family

mpl.rcParams["svg.hashsalt"] = "minideepseek"
picture = family(title="Seven steps in two and a half years, each a small difference from the one before")
picture.savefig(Path(__file__).with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
