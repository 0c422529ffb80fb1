"""The graph cut into the levels of a prefix tree (DESIGN: "The prefix tree"). Which values cross, and where to branch.

A *branch point* is a set of a site's layers that take their setting together; the tree branches there. Where the
stride varies, it branches twice: the layer runs at a base stride (1 stands for 1, 2, 3 and 4), the pointwise operators
after it run too, and only then is the result subsampled, which gives the same numbers as the larger strides.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from itd.engine.dense import grown
from itd.engine.graph import Graph, Node, Ref
from itd.engine.ops import ConvOp
from itd.engine.rows import leaves
from itd.patcher import DynamicModel
from itd.space import ATTRIBUTES, Space


@dataclass(frozen=True)
class Branch:
    """Where the tree branches: `nodes` take the setting; or, where there are none, `values` are subsampled.

    site: index of the site in the space. attributes: what the setting says. base: a subsampling branch follows.
    """

    site: int
    attributes: frozenset[str]
    nodes: tuple[Node, ...] = ()
    values: frozenset[int] = frozenset()
    base: bool = False

    @property
    def reads(self) -> frozenset[int]:
        """Values that taking the branch reads."""
        return self.values | {i for node in self.nodes for i in node.inputs()}


@dataclass(frozen=True)
class Stage:
    """What is run for each prefix: first the branch (none at the root), then the nodes.

    carried: values that the branch leaves in place; entering: values present once the branch was taken;
    leaving: values that later stages read. frees[i]: values that nothing reads after node i. added: entering values
    that are only ever added to a convolution here, or not read at all. spent: numbers of the convolutions here that may
    write over what they add.
    """

    branch: Branch | None
    nodes: tuple[Node, ...]
    entering: tuple[int, ...]
    leaving: tuple[int, ...]
    frees: tuple[tuple[int, ...], ...]
    added: frozenset[int] = frozenset()
    spent: frozenset[int] = frozenset()


def cut(model: DynamicModel, graph: Graph, space: Space, *, subsample: bool = True) -> tuple[Stage, ...]:
    """The stages of a tree over a space.

    subsample: whether strides share one convolution at their base stride; False runs each stride as it is.
    """
    points = _branch_points(model, graph, space)
    level = _levels(graph, points)
    plan: list[tuple[Branch | None, list[Node]]] = [(None, [n for n in graph.nodes if level[n.id] == 0])]
    for number, point in enumerate(points, start=1):
        own = [n for n in graph.nodes if level[n.id] == number and n not in point.nodes]
        if not (subsample and "stride" in point.attributes and all(n.op.subsamples for n in point.nodes)):  # type: ignore[union-attr]
            plan.append((point, own))
            continue
        zone = _pointwise_zone(point, own)
        inside = frozenset(n.id for n in (*point.nodes, *zone))
        plan.append((Branch(point.site, point.attributes, point.nodes, base=True), zone))
        rest = [n for n in own if n.id not in inside]
        plan.append((Branch(point.site, frozenset({"stride"}), values=inside), rest))
    return _with_frontiers([(branch, _with_free(nodes, graph)) for branch, nodes in plan], graph)


def levels(model: DynamicModel, graph: Graph, space: Space) -> dict[int, int]:
    """Value number -> how many branches come before it."""
    return _levels(graph, _branch_points(model, graph, space))


def _with_free(nodes: list[Node], graph: Graph) -> list[Node]:
    """A stage's nodes with those that read no image and whose values it wants, and without others of that kind."""
    free = {n.id: n for n in graph.nodes if n.free}
    if not free:
        return nodes
    kept = {n.id: n for n in nodes if not n.free}
    wanted = [i for n in kept.values() for i in n.inputs() & free.keys()]
    while wanted:
        node = free[wanted.pop()]
        if node.id not in kept:
            kept[node.id] = node
            wanted += node.inputs() & free.keys()
    return [kept[i] for i in sorted(kept)]


def varied(space: Space) -> dict[str, frozenset[str]]:
    """Site name -> the attributes that the space varies there."""
    return {
        site.name: frozenset(a for a in ATTRIBUTES if len(space.options.get(site.name, {}).get(a, ())) > 0)
        for site in space.sites
    }


def moving(model: DynamicModel, space: Space) -> frozenset[str]:
    """Paths of the layers that take a setting of the space; the other layers of its sites run at their default."""
    attributes = varied(space)
    return frozenset(
        m.path for name, modules in model.sites.items() for m in modules if m.attributes & attributes[name]
    )


def _branch_points(model: DynamicModel, graph: Graph, space: Space) -> list[Branch]:
    """Each site's layers, grouped where they have the same sites before them, in the order they are run."""
    owner = {m.path: (name, m.attributes) for name, modules in model.sites.items() for m in modules}
    index = {site.name: i for i, site in enumerate(space.sites)}
    attributes_of = varied(space)
    before: dict[int, frozenset[int]] = {0: frozenset()}
    groups: dict[tuple[str, frozenset[int], bool], list[Node]] = {}
    for node in graph.nodes:
        above = frozenset().union(*(before[i] for i in node.inputs()))
        if node.site is not None:
            name, attributes = owner[node.site]
            if attributes & attributes_of[name]:
                strided = "stride" in attributes & attributes_of[name]
                groups.setdefault((name, above, strided), []).append(node)
            above |= {node.id}
        before[node.id] = above
    points = []
    for (name, *_), nodes in sorted(groups.items(), key=lambda item: item[1][0].id):
        taken = frozenset().union(*(owner[n.site or ""][1] for n in nodes)) & attributes_of[name]
        points.append(Branch(index[name], taken, tuple(nodes)))
    return points


def _levels(graph: Graph, points: list[Branch]) -> dict[int, int]:
    at = {node.id: number for number, point in enumerate(points, start=1) for node in point.nodes}
    level = {0: 0}
    for node in graph.nodes:
        level[node.id] = max([at.get(node.id, 0), *(level[i] for i in node.inputs())])
    return level


def _pointwise_zone(point: Branch, own: list[Node]) -> list[Node]:
    """The nodes after a branch point that read it through pointwise operators alone."""
    inside = {n.id for n in point.nodes}
    zone = []
    for node in own:
        inputs = node.inputs()
        pointwise = node.site is None and node.op.pointwise and not _reads_a_map(node)  # type: ignore[union-attr]
        if inputs and inputs <= inside and pointwise:
            zone.append(node)
            inside.add(node.id)
    return zone


def _reads_a_map(node: Node) -> bool:
    """Whether a node reads a parameter that is another one at each place, which does not shrink with the values."""
    fixed = (leaf for leaf in leaves((node.args, node.kwargs)) if isinstance(leaf, Tensor))
    return any(side > 1 for tensor in fixed for side in tensor.shape[-2:])


def _with_frontiers(plan: list[tuple[Branch | None, list[Node]]], graph: Graph) -> tuple[Stage, ...]:
    needed: set[int] = {graph.output}
    stages: list[Stage] = []
    for branch, nodes in reversed(plan):
        leaving = set(needed)
        nodes = grown(nodes, leaving)
        made = {n.id for n in nodes}
        read = {i for n in nodes for i in n.inputs()}
        entering = (leaving | read) - made
        frees, added = _frees(nodes, leaving, entering), _added(nodes, entering)
        spent = _spent(nodes, frees)
        stages.append(Stage(branch, tuple(nodes), _ordered(entering), _ordered(leaving), frees, added, spent))
        needed = set(entering)
        if branch is not None:
            needed -= {n.id for n in branch.nodes}
            needed |= {i for n in branch.nodes for i in n.inputs()}
    return tuple(reversed(stages))


def _added(nodes: list[Node], entering: set[int]) -> frozenset[int]:
    """Values that nothing reads but as what a convolution adds."""
    read: set[int] = set()
    for node in nodes:
        read |= node.inputs() - {_addend(node)}
    return frozenset(entering - read)


def _addend(node: Node) -> int | None:
    """The value that a convolution adds and does not convolve as well; None for other nodes."""
    other = node.args[1] if isinstance(node.op, ConvOp) and len(node.args) == 2 else None
    return other.id if isinstance(other, Ref) and other != node.args[0] else None


def _spent(nodes: list[Node], frees: tuple[tuple[int, ...], ...]) -> frozenset[int]:
    """Convolutions that are the last to read what they add, made here, of which no other value is a view."""
    own = {node.id for node in nodes if isinstance(node.op, ConvOp)}
    viewed = {i for node in nodes if node.id not in own for i in node.inputs()}
    new = own - viewed
    return frozenset(
        node.id for node, last in zip(nodes, frees, strict=True) if (other := _addend(node)) in new and other in last
    )


def _frees(nodes: list[Node], leaving: set[int], entering: set[int]) -> tuple[tuple[int, ...], ...]:
    last: dict[int, int] = {}
    for position, node in enumerate(nodes):
        for i in node.inputs():
            last[i] = position
    frees: list[list[int]] = [[] for _ in nodes]
    for value, position in last.items():
        if value not in leaving:
            frees[position].append(value)
    return tuple(tuple(sorted(f)) for f in frees)


def _ordered(values: set[int]) -> tuple[int, ...]:
    return tuple(sorted(values))
