"""A patched network compiled for a space: graph, stages, prefixes and costs, once for each number format and device.

Planning, the check that the tree is the network, the sweep, prediction and the benchmarks share one. It holds no state
of a run: limits of memory stay on the executor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from itd.engine.costs import Costs, PrefixCosts, prefix_costs
from itd.engine.dense import clamped, shared
from itd.engine.graph import Graph, build_graph
from itd.engine.precision import Precision
from itd.engine.prefixes import Prefixes, build_prefixes
from itd.engine.stages import Stage, cut, levels, moving
from itd.engine.tracing import Trace, trace
from itd.patcher import DynamicModel, layer_attributes
from itd.space import Space


@dataclass(frozen=True, eq=False)
class Program:
    """What `compile_program` made of a network and a space.

    trace: of the network. subsample: whether strides share one convolution. graph, stages: operators, cut into levels.
    runs: whether its weights have values; without, it can only be counted.
    """

    trace: Trace
    space: Space
    device: torch.device
    precision: Precision
    subsample: bool
    graph: Graph
    stages: tuple[Stage, ...]
    attributes: dict[str, frozenset[str]]
    runs: bool

    @property
    def model(self) -> DynamicModel:
        """The network."""
        return self.trace.model

    @cached_property
    def prefixes(self) -> Prefixes:
        """The prefixes of the space's configurations."""
        return build_prefixes(self.space, self.stages)

    @cached_property
    def costs(self) -> Costs:
        """What each stage and branch costs, worked out once for each shape."""
        return Costs(self.stages, self.attributes, self.precision.dtype)

    def prefix_costs(self, input_shape: tuple[int, int, int]) -> PrefixCosts:
        """What the whole space costs for one image of (C, H, W)."""
        return prefix_costs(self.space, self.prefixes, self.costs, input_shape, self.graph.output)

    def of(self, space: Space) -> Program:
        """The same program for a part of its space: the graph and its stages stay."""
        return self if space is self.space else replace(self, space=space)


def compile_program(
    network: DynamicModel | Trace,
    space: Space,
    *,
    device: torch.device | str = "cpu",
    precision: Precision | None = None,
    optimise: bool = True,
    subsample: bool = True,
) -> Program:
    """Compiles a patched network for a space.

    Args:
        network: what `itd.patch` returned, or its trace where there is one.
        space: the configurations.
        device: where it is run.
        precision: of weights and activations; None is fp32.
        optimise: fold, fuse and factor; False keeps the plain operators and leaves weights out: its costs can be
            asked for, and no executor takes it.
        subsample: whether strides share one convolution, and siblings the sums of what they all read, which is cheaper
            where all are run.

    Raises:
        ModelError: for a network that cannot be traced, or sites that no logit depends on.

    Example:
        >>> from itd.patcher import build_model, model_space, patch
        >>> model = patch(build_model("resnet18", 10), "resnet18")
        >>> program = compile_program(model, model_space(model, ["dilation"], swept=["D"]))
        >>> program.prefix_costs((3, 64, 64)).output
        (1, 10)
    """
    traced = network if isinstance(network, Trace) else trace(network)
    precision = precision or Precision()
    device, share = torch.device(device), subsample and optimise
    graph = build_graph(traced, precision.dtype, device, optimise=optimise, moving=moving(traced.model, space))
    if share:
        graph = shared(graph, levels(traced.model, graph, space))
    if optimise and device.type == "cpu" and precision.dtype == torch.float32:
        graph = clamped(graph)
    return Program(
        trace=traced,
        space=space,
        device=device,
        precision=precision,
        subsample=share,
        graph=graph,
        stages=cut(traced.model, graph, space, subsample=share),
        attributes=layer_attributes(traced.model.sites),
        runs=optimise,
    )


def plain_costs(network: DynamicModel | Trace, space: Space, input_shape: tuple[int, int, int]) -> PrefixCosts:
    """What every configuration's plain forward costs for one image of (C, H, W), nothing optimised."""
    return compile_program(network, space, optimise=False).prefix_costs(input_shape)
