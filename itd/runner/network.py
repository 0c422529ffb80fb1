"""What a job knows of its network: how its work is shared, what each configuration costs, and what it computes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from itd.data.loader import Shape
from itd.engine.costs import PrefixCosts
from itd.engine.plain import forward_costs
from itd.engine.program import compile_program
from itd.engine.tracing import Trace, trace
from itd.errors import ItdError, TraceError
from itd.patcher import DynamicModel
from itd.space import Space
from itd.text import first_line
from itd.weights.content import content_sha256

_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)
"""Where an object lies in memory, which is another place in each process."""
WINDOW_RULE = "a window exceeds its input"


@dataclass(frozen=True, eq=False)
class Followed:
    """A network followed through a space.

    trace: None where it cannot be traced. space: less what cannot run at the images' size. costs: of each plain
    forward. why_plain: why no work can be shared, which may show after it was traced; None where it can.
    """

    trace: Trace | None
    space: Space
    costs: PrefixCosts
    why_plain: str | None = None


def follow(model: DynamicModel, space: Space, shape: Shape) -> Followed:
    """Traces a network for a space and counts what each configuration costs; where it cannot be traced, runs it.

    Raises SpaceError where a setting does not fit the network.
    """
    traced = None
    try:
        traced = traced_for(model, space.attributes, shape)
        return Followed(traced, *possible_space(traced, space, shape))
    except TraceError as error:
        why = str(error)
    except ItdError:
        raise
    except Exception as error:  # what is traced may hold anything, and meta tensors bear less than others
        why = f"what torch.fx traced cannot be followed on shapes ({first_line(error)})"
    costs = forward_costs(model, space, shape)
    impossible = costs.impossible()
    if impossible:
        space = space.without(impossible, window_rule(shape))
        costs = replace(costs, per_config=tuple(m for m in costs.per_config if m is not None))
    return Followed(traced, space, costs, why)


def traced_for(model: DynamicModel, attributes: Sequence[str], shape: Shape) -> Trace:
    """The trace of a network for a sweep: at the images' size alone where no configuration changes a value's shape."""
    return trace(model, None if "stride" in attributes else shape)


def window_rule(shape: Shape) -> str:
    """Why configurations are left out at an image size."""
    _, height, width = shape
    return f"{WINDOW_RULE} at {f'{height}' if height == width else f'{height} x {width}'} px"


def possible_space(traced: Trace, space: Space, shape: Shape) -> tuple[Space, PrefixCosts]:
    """The space less what cannot run at an image size, and what each plain forward of the rest costs."""
    program = compile_program(traced, space, optimise=False)
    costs = program.prefix_costs(shape)
    impossible = costs.impossible()
    if not impossible:
        return space, costs
    space = space.without(impossible, window_rule(shape))
    return space, program.of(space).prefix_costs(shape)


def network_sha256(model: DynamicModel, traced: Trace | None) -> str:
    """What a network computes apart from its parameters: its modules, the calls between them, and its plain buffers.

    A name of the registry says so much; of a network of a user's own two that hold the same tensors may differ. Of one
    that cannot be traced the calls are not known.
    """
    saved = set(model.state_dict())
    calls = [
        (
            node.op,
            torch.typename(node.target) if callable(node.target) else str(node.target),
            repr((node.args, node.kwargs)),
        )
        for node in (traced.graph.nodes if traced is not None else ())
    ]
    modules = [(name, type(m).__name__, m.extra_repr()) for name, m in model.named_modules() if name]
    digest_of = hashlib.sha256(_ADDRESS.sub("", repr((calls, modules))).encode())
    plain = {name: tensor for name, tensor in model.named_buffers() if name not in saved}
    digest_of.update(content_sha256(plain).encode())
    return digest_of.hexdigest()
