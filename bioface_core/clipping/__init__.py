"""How far can one patient pull? No further than the clipping norm: the sum of their gradients, each cut to it.

DP-SGD needs the gradient of every single patient, which is longer than what a framework computes, the gradient of all
together. It is had in one pass forward and one pass backward over the data alone: each layer's own gradient is then
formed patient by patient from what went into the layer and what came back to it. Nothing is computed for layers that
do not train, and nothing goes back beyond the first that does.

Read ``sums`` (cut and add), ``record`` (forward, backward, and what is noted on the way), ``layers`` (each kind of
layer's own gradient) and ``gradients`` (how they are kept). The obvious way, one patient at a time with autograd,
stands in the tests and is compared with this one.

Source: Abadi et al. 2016, algorithm 1 (clipping); Goodfellow 2015, "Efficient per-example gradient computations"
(linear layers); Bu et al. 2023, "Differentially private optimization on large model at small cost" (book-keeping).
"""

from bioface_core.clipping.record import LossOf
from bioface_core.clipping.sums import Clipped, clipped_sum

__all__ = ["Clipped", "LossOf", "clipped_sum"]
