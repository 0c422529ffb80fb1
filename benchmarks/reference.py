"""Multiply-accumulates of the reference tree, which a share of the matrix rate counts whatever form is executed.

The reference computes every operator plainly once for each prefix, with strides 1 to 4 of one convolution subsampled
from one and kernels resized upwards in their own degrees of freedom (592 GMAC an image for ResNet-50's dilations at 224
px). A form that executes fewer is faster, and its share larger.
"""

from __future__ import annotations

from dataclasses import replace

from itd.engine.program import compile_program
from itd.engine.site_ops import SiteOp
from itd.engine.stages import cut
from itd.engine.tracing import Trace
from itd.space import Space


def reference_macs(traced: Trace, space: Space, shape: tuple[int, int, int]) -> int:
    """Of one image of (C, H, W) through all configurations."""
    program = compile_program(traced, space, device="meta", optimise=False)
    for node in program.graph.nodes:
        if isinstance(node.op, SiteOp):
            node.op.factored = True
    stages = cut(traced.model, program.graph, space, subsample=True)
    return replace(program, subsample=True, stages=stages).prefix_costs(shape).macs
