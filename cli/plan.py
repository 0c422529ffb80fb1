"""What a sweep says of itself, before it starts and with `--plan`. It computes nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from itd_cli.options import as_typed, echo, print_json
from itd_cli.progress import Progress, span

MOST = 200
"""Characters of a note at the start; the sites are shortened to it."""
PATH_NOTE = "by path, as the result was begun, not spread over the classes"


def show_plans(requests: list[Any], mode: str, as_json: bool, progress: Progress) -> None:
    """Plans on standard output, one after another. mode: full, with an estimate of the time, or quick."""
    from itd import plan
    from itd.runner.estimate import BUDGET_S

    budget_s = BUDGET_S / len(requests)

    def say(seconds: float) -> None:
        progress.say(f"timing the sweep on noise, at most {seconds:.0f} s (--plan=quick leaves it out)")

    with contextlib.redirect_stdout(sys.stderr):  # for what a network prints
        plans = [plan(r, estimate=mode == "full", budget_s=budget_s, on_estimate=say) for r in requests]
    if as_json:
        dicts = [one.as_dict() for one in plans]
        print_json(dicts if len(dicts) > 1 else dicts[0])
    else:
        echo("\n\n".join(plan_text(one) for one in plans))


def plan_text(plan: Any) -> str:
    """What `--plan` prints."""
    shared = plan.plain_macs / plan.tree_macs if plan.tree_macs else 1.0
    default = "not in the space" if plan.default is None else plan.default
    there = f", {plan.already:,} of them there already" if plan.already else ""
    lines = [
        ("model", f"{plan.model}, {'+'.join(plan.attributes)}"),
        ("weights", weights_text(plan.weights, plan.weights_sha256, plan.weights_pending)),
        *((f"site {name}", site_text(layers, name in plan.swept)) for name, layers in plan.sites.items()),
        *(("why", as_typed(reason)) for reason in plan.why),
        ("preprocessing", preprocess_text(plan.preprocess, plan.variation, plan.input_shape)),
        *([("assumed", assumed(plan.weights, plan.preprocess, plan.assumed))] if plan.assumed else []),
        ("configurations", f"{plan.configs:,} (default: {default})"),
        *(("left out", f"{count:,}: {reason}") for reason, count in plan.removed.items()),
        ("images", f"{images_text(plan.images, plan.classes, plan.num_classes)}, {plan.data}{there}"),
        *([("classes", few_classes(plan.data_classes, plan.num_classes))] if plan.few_classes else []),
        *([("order", PATH_NOTE)] if plan.order == "path" else []),
        ("MACs, plain", f"{_macs(plan.plain_macs, plan.macs_unknown)}: every configuration on its own"),
        ("MACs, shared", f"{_macs(plan.tree_macs, plan.macs_unknown)}: {shared:.1f}x fewer in the prefix tree")
        if plan.executor == "tree"
        else ("MACs, shared", "none: every configuration is a plain forward"),
        ("executor", "the prefix tree" if plan.executor == "tree" else f"plain forwards: {as_typed(plan.why_plain)}"),
        ("precision", precision_text(plan.precision)),
        ("scores", f"{plan.score_bytes / 1e6:,.1f} MB before compression"),
        ("result", plan.out),
        *([("time", time_text(plan))] if plan.estimate else []),
    ]
    return "\n".join(f"{name:<16} {text}" for name, text in lines)


def precision_text(name: str) -> str:
    """The number format, and of `auto` what it comes to."""
    return "auto: bf16 or tf32 where they agree with fp32 on the first images" if name == "auto" else name


def weights_text(name: str, sha256: str | None, pending: str | None) -> str:
    """`w.pth, SHA-256 ab..`, or why the weights are not there."""
    if pending is not None:
        training = "; the sweep first trains the network on the embedded digits"
        return f"{name}, {pending}{training if 'trained' in pending else ''}"
    named = {"none": "none: random, always the same", "given": "those of the network given"}.get(name, name)
    return f"{named}, SHA-256 {sha256}"


def site_text(layers: Mapping[str, Iterable[str]], swept: bool = True) -> str:
    """The layers of a site, each with what it takes where that is not everything."""
    shown = [path if len(tuple(takes)) == 3 else f"{path} ({', '.join(takes)})" for path, takes in layers.items()]
    return ", ".join(shown) + ("" if swept else "; not swept")


def preprocess_text(
    preprocess: Mapping[str, Any] | None, variation: Mapping[str, Any] | None, shape: tuple[int, int, int]
) -> str:
    """`resize 256 px (bilinear), crop 224 px, mean 0.485 0.456 0.406, std 0.229 0.224 0.225`."""
    if preprocess is None:
        return f"of the data set's own: images of {' x '.join(map(str, shape))}"
    resized = preprocess["resize_px"]
    parts = [
        "not resized" if resized is None else f"resize {resized} px ({preprocess['interpolation']})",
        f"crop {preprocess['crop_px']} px",
        *(f"{name.removesuffix('_px')} {value:g}{' px' if name.endswith('_px') else ''}"
          for name, value in (variation or {}).items()),
        *(f"{name} {' '.join(f'{value:.4g}' for value in preprocess[name])}" for name in ("mean", "std")),
    ]  # fmt: skip
    return ", ".join(parts)


def assumed(weights: str, preprocess: Any, fields: tuple[str, ...]) -> str:
    """What is assumed of weights that do not say how their images are preprocessed. preprocess: an identity's."""
    from itd.data.preprocess import Preprocess, assumed_text

    return as_typed(assumed_text(weights, Preprocess.from_identity(preprocess), fields))


def time_text(plan: Any) -> str:
    """`about 3 h 20 min, measured on 8 images of noise`."""
    estimate = plan.estimate
    if not estimate.images:
        return "none: every image is there already"
    images = "1 image" if estimate.images == 1 else f"{estimate.images:,} images"
    part = "" if estimate.configs == plan.configs else f" at {estimate.configs:,} of the configurations"
    rest = " for those that are missing" if plan.already else ""
    apart = ", the training apart" if "trained" in (plan.weights_pending or "") else ""
    return f"about {span(estimate.seconds)}{rest}, measured on {images} of noise{part}{apart}"


def start_notes(begun: Any) -> list[str]:
    """What a sweep says when it starts: three lines, the last of what is there, before it others of its number format
    and of what is assumed."""
    from itd.runner.plan import site_layers

    job, space, images = begun.job, begun.job.space, len(begun.job)
    sha256 = job.weights_sha256[:12]
    head = f"{job.name}, weights {weights_text(job.weights_label, sha256, None)}; sites "
    layers = {
        name: [path for path, takes in site_layers(job.model)[name].items() if set(takes) & set(space.attributes)]
        for name in space.swept
    }
    identity = job.images.identity
    parts = [
        f"{job.images.source}: {preprocess_text(identity['preprocess'], identity['variation'], job.input_shape)}",
        *(f"{count} configurations are left out: {reason}" for reason, count in space.removed.items()),
    ]
    if space.default is None:
        parts.append("the default configuration is not among them: there will be no static accuracy")
    if job.costs.unknown:
        parts.append(f"multiply-accumulates do not count {', '.join(job.costs.unknown)}")
    if job.few_classes:
        parts.append(few_classes(job.images.data_classes, job.num_classes))
    if job.images.order == "path":
        parts.append(f"the images are in the order {PATH_NOTE}")
    return [
        head + shortened_sites(layers, MOST - len(head)),
        "; ".join(parts),
        *begun.notes,
        *([assumed(job.weights_label, identity["preprocess"], job.images.assumed)] if job.images.assumed else []),
        f"{len(space):,} configurations, {images_text(images, job.images.classes, job.choices)}, {begun.already:,} "
        f"of them there already -> {begun.out}",
    ]


def images_text(images: int, classes: int, of: int) -> str:
    """How many images of how many of the network's classes.

    >>> images_text(1000, 800, 1000)
    '1,000 images of 800 of 1,000 classes'
    """
    return f"{images:,} images of {classes:,} of {of:,} classes"


def few_classes(there: int, of: int) -> str:
    """What is said where the images are of fewer classes than the network tells apart."""
    return (
        f"the images are of {there:,} of the network's {of:,} classes, and it may predict any; --class-subset present "
        f"keeps to those {there:,}"
    )


def shortened_sites(layers: Mapping[str, list[str]], most: int) -> str:
    """The sites with as many of their layers as fit: all, the first of each, or the names alone."""
    forms: list[Callable[[str, list[str]], str]] = [
        lambda name, paths: f"{name} {'+'.join(paths)}",
        lambda name, paths: f"{name} {paths[0]}" + (f"+{len(paths) - 1}" if len(paths) > 1 else ""),
    ]
    for form in forms:
        text = ", ".join(form(name, paths) for name, paths in layers.items())
        if len(text) <= most:
            return text
    return f"{', '.join(layers)} ({sum(map(len, layers.values()))} layers)"


def _macs(macs: int, unknown: Iterable[str]) -> str:
    """A count, and what it leaves out."""
    giga = f"{macs / 1e9:,.1f} GMAC" if macs >= 1e9 else f"{macs / 1e6:,.1f} MMAC"
    names = ", ".join(unknown)
    return f"not known: {names} are not counted, the others are {giga}" if names else giga
