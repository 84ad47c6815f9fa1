"""The figures and widgets of the lessons, in one house style.

A function draws one figure and returns it; a notebook shows it where it is the value of a cell, and a ``knob`` redraws
it when a slider moves.

==========  =======================================================================
module      holds
==========  =======================================================================
style       colours, letters, ``canvas``: what every figure starts from
curves      ``curves`` (with the band of the seeds), ``bars``, ``shares``
attention   ``attention_map``, ``head_sharing``
rotation    ``rotation_dials``: RoPE as hands that turn
bricks      ``block_diagram``, ``norm_picture``, ``gate_picture``
data        ``funnel``, ``resemblance``, ``band_curve``, ``rows_of_documents`` ...: what happens to a corpus
training    ``loop_diagram``, ``runs`` (loss above, learning rate below), ``update_sizes``
live        ``live_curve``: ``runs`` while it goes on
scaling     ``valleys``, ``laws_of``, ``near_optimal``, ``forecast``, ``budget_plan``: scaling laws
text        ``cuts``, ``parts``, ``cards``, ``verdicts``, ``next_tokens``: as HTML, which has every font
experts     ``expert_slices``, ``load_map``: what a mixture is made of, and who does the work
latent      ``latent_diagram``, ``matrices``: latent attention
ahead       ``chain_diagram``: a module that looks one token further
sparse      ``index_diagram``, ``selection``: what an index chooses to read
blocks      ``sight``: what a query sees of compressed text
streams     ``stream_diagram``, ``birkhoff``: several residual streams, and where the matrices live that mix them
formats     ``number_lines``: what few bits can say
pipeline    ``gantt``, ``hands``: what the devices of a pipeline do, when they wait, and what they send
ledger      ``ledger``: claims, measurements, verdicts
answers     ``answer``: an answer to open, computed by its cell
family      ``family``: the generations on one page
widgets     ``knob``: a figure with sliders, and a picture where there are none
==========  =======================================================================
"""

from minideepseek.errors import UserError

try:
    import matplotlib as _matplotlib  # noqa: F401
except ImportError:
    raise UserError('figures need matplotlib; install it with: pip install "minideepseek[course]"') from None

from minideepseek.viz.ahead import chain_diagram
from minideepseek.viz.answers import answer
from minideepseek.viz.attention import attention_map, head_sharing
from minideepseek.viz.blocks import sight
from minideepseek.viz.bricks import block_diagram, gate_picture, norm_picture
from minideepseek.viz.curves import bars, curves, shares
from minideepseek.viz.data import band_curve, funnel, pooling, reading_order, resemblance, rows_of_documents, two_rulers
from minideepseek.viz.experts import Slices, expert_slices, load_map
from minideepseek.viz.formats import number_lines
from minideepseek.viz.latent import latent_diagram, matrices
from minideepseek.viz.ledger import ledger
from minideepseek.viz.live import live_curve
from minideepseek.viz.pipeline import gantt, hands
from minideepseek.viz.rotation import rotation_dials
from minideepseek.viz.scaling import budget_plan, forecast, laws_of, near_optimal, three_axes, valleys
from minideepseek.viz.sparse import index_diagram, selection
from minideepseek.viz.streams import birkhoff, stream_diagram
from minideepseek.viz.style import canvas, use_style
from minideepseek.viz.text import cards, cuts, next_tokens, parts, verdicts
from minideepseek.viz.training import loop_diagram, runs, update_sizes
from minideepseek.viz.widgets import knob

use_style()

__all__ = [
    "Slices",
    "answer",
    "attention_map",
    "band_curve",
    "bars",
    "birkhoff",
    "block_diagram",
    "budget_plan",
    "canvas",
    "cards",
    "chain_diagram",
    "curves",
    "cuts",
    "expert_slices",
    "forecast",
    "funnel",
    "gantt",
    "gate_picture",
    "hands",
    "head_sharing",
    "index_diagram",
    "knob",
    "latent_diagram",
    "laws_of",
    "ledger",
    "live_curve",
    "load_map",
    "loop_diagram",
    "matrices",
    "near_optimal",
    "next_tokens",
    "norm_picture",
    "number_lines",
    "parts",
    "pooling",
    "reading_order",
    "resemblance",
    "rotation_dials",
    "rows_of_documents",
    "runs",
    "selection",
    "shares",
    "sight",
    "stream_diagram",
    "three_axes",
    "two_rulers",
    "update_sizes",
    "use_style",
    "valleys",
    "verdicts",
]
