"""`itd sweep`: every configuration of a network on every image, into a Parquet result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from itd.data.images import ORDERS
from itd.space import OPEN_CONVENTIONS, Conventions
from itd.store.files import SIDE
from itd_cli.options import (
    SOURCE,
    SOURCES,
    class_subset_option,
    labels_option,
    model_options,
    note,
    overwrite_option,
    preprocess_options,
    resumable,
    sweep_workers_option,
)
from itd_cli.plan import show_plans, start_notes
from itd_cli.progress import Progress, progress_option

SET_ASIDE = 3
"""The exit status of a sweep that has finished, with units set aside."""


def _range(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, int]:
    try:
        low, high = (int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not LOW,HIGH; allowed are two whole numbers as in 4,288") from None
    if not 1 <= low <= high:
        raise click.BadParameter(f"{text!r} has no value in it; allowed is 1 <= LOW <= HIGH as in 4,288")
    return low, high


def _numbers(kind: Callable[[str], Any], example: str) -> Callable[..., tuple[Any, ...]]:
    """Reads a list of numbers; none given is an empty one."""

    def parse(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[Any, ...]:
        try:
            return tuple(kind(part) for part in text.split(",")) if text is not None else ()
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a list of numbers; allowed is for example {example}") from None

    return parse


def _shard(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        number, of = (int(part) for part in text.split("/"))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not i/n; allowed is for example 1/8") from None
    if not 1 <= number <= of:
        raise click.BadParameter(f"{text!r}: i must be from 1 to n, as in 1/8")
    return number, of


def _choice(name: str, text: str) -> Callable[..., Any]:
    """An open choice of the paper's text: a reconstruction, our reading first."""
    kind, option = click.Choice(OPEN_CONVENTIONS[name]), "--" + name.replace("_", "-")
    return click.option(option, type=kind, default=OPEN_CONVENTIONS[name][0], show_default=True, help=text)


def _what(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            model_options(required=True),
            click.option("--attr", "attributes", metavar="A[,A]", help="stride, dilation, size, or several."),
            click.option(
                "--space", "space_file", metavar="FILE", help="The configurations `itd combine` listed; no --attr then."
            ),
            click.option("--sites", metavar="S", help="ABCD, a part of it, auto, or A=path[+path],B=path."),
            click.option(
                "--options", multiple=True, metavar="O", help="1,2,3 for every site; A=1,2 for one; stride:A=1,2."
            ),
            _choice("size_scale", "A resized kernel's output times (k0/k)^2, k0/k or 1."),
            click.option("--align-corners", is_flag=True, help="Of the bilinear resize of kernels; default without."),
            _choice("shortcut", "What fills the shortcut's projection at stride 1/2."),
            _choice("pool_half", "How a pool's input is upsampled at stride 1/2."),
            click.option(
                "--stride-range",
                default="4,288",
                show_default=True,
                callback=_range,
                metavar="LOW,HIGH",
                help="Allowed total output stride: the rule that leaves ResNet-50 with 361 configurations.",
            ),
        ]
    ):
        command = option(command)
    return command


def _on_what(command: Callable[..., Any]) -> Callable[..., Any]:
    count = click.IntRange(min=1)
    for option in reversed(
        [
            click.option(
                "--data",
                metavar=SOURCE,
                help=f"{SOURCES}; default $ITD_DATA, else digits.",
            ),
            labels_option(),
            click.option("--classes", "classes_file", metavar="FILE", help="One class name per line, in label order."),
            click.option("--num-classes", type=count, metavar="K", help="Default the weights' own, else 1000."),
            click.option(
                "--weights",
                metavar="NAME|FILE|none",
                help="Of torchvision's enum, .pth or .safetensors; default V1, timm's own, or as FILE.py:NAME has it.",
            ),
            preprocess_options,
            click.option(
                "--scale",
                "scales",
                callback=_numbers(float, "0.25,0.5,1,2,4"),
                metavar="F[,F]",
                help="Resize both sides, crop, then resize by F: the same content at another scale; a result for each.",
            ),
            click.option(
                "--context",
                "contexts_px",
                callback=_numbers(int, "50,100,150,200,250"),
                metavar="PX[,PX]",
                help="Resize both sides, then crop the centre to PX: more or less context; a result for each.",
            ),
            click.option(
                "--limit",
                type=count,
                metavar="N",
                help="N images of as many classes as there are; a larger N extends a result.",
            ),
            click.option("--every", type=count, default=1, metavar="K", help="Each K-th image, before the limit."),
            click.option(
                "--order",
                type=click.Choice(ORDERS),
                default=ORDERS[0],
                show_default=True,
                help="The first image of every class, then the second; or by path. A result goes on in its own.",
            ),
            class_subset_option,
            click.option(
                "--allow-missing",
                is_flag=False,
                flag_value="1%",
                default="0",
                metavar="[N|P%]",
                help="So many images that cannot be decoded become null rows; 1% where no number is given.",
            ),
            click.option(
                "--retry-missing", is_flag=True, help="Compute the units with null rows again, also of replaced files."
            ),
            click.option("--check-data", is_flag=True, help="Decode every image first, and name all that are bad."),
            click.option(
                "--hash-data", is_flag=True, help="What files contain, beside their names and sizes, makes the result."
            ),
            click.option(
                "--fail-fast",
                is_flag=True,
                help="End at the first unit that cannot be computed; else the others go on.",
            ),
        ]
    ):
        command = option(command)
    return command


def _how(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Images in the tree at once."),
            click.option("--device", metavar="D", help="cpu, cuda, cuda:1; default a GPU where there is one."),
            click.option(
                "--devices", metavar="D,D", help="A worker process for each: cuda:0,cuda:1; all (GPUs); 'cpu*2'."
            ),
            click.option(
                "--engine",
                type=click.Choice(("inline", "local", "ray")),
                help="This process, those of --devices, or actors of Ray; default inline, with --devices local.",
            ),
            click.option(
                "--address", metavar="A", help="Of a Ray cluster, or auto; default one of this command's own."
            ),
            click.option(
                "--workers-per-node",
                type=click.IntRange(min=1),
                metavar="N",
                help="Of Ray; default one for each GPU of a node, or one.",
            ),
            click.option(
                "--precision",
                metavar="P",
                help="fp32, tf32, bf16, fp16 or auto: that of the result that is there, or bf16 where its predictions "
                "on the first 256 images are fp32's. Default fp32, on a GPU auto.",
            ),
            sweep_workers_option,
            click.option(
                "--images-per-unit",
                type=click.IntRange(min=1),
                metavar="N",
                help="Of a new result: what is computed and written at a time; shards that `itd merge` puts together "
                "need the same.",
            ),
            click.option(
                "--executor",
                type=click.Choice(("auto", "tree", "plain")),
                default="auto",
                show_default=True,
                help="The prefix tree, one plain forward for each configuration, or the tree where it can be.",
            ),
            click.option(
                "--cache",
                metavar="DIR",
                help="Keep decoded images there, for sweeps of the same images and preprocessing.",
            ),
            click.option("--shard", callback=_shard, metavar="i/n", help="Only this part of the work, for job arrays."),
            click.option("--help-others", is_flag=True, help="After --shard, what other shards have not begun."),
            click.option(
                "--out",
                metavar="PATH",
                help="Default results/<model>-<attr>.parquet; --scale and --context append to it, as in -scale0.25.",
            ),
            overwrite_option,
            progress_option,
            click.option(
                "--plan",
                "plan_mode",
                is_flag=False,
                flag_value="full",
                type=click.Choice(("full", "quick")),
                help="Say what would be done and about how long it takes, from at most 20 s of noise, then stop; "
                "--plan=quick leaves the time out.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Of --plan: print only JSON on standard output."),
        ]
    ):
        command = option(command)
    return command


@click.command(epilog="Example: itd sweep --model resnet50 --attr stride --data /imagenet/val --limit 1000")
@_what
@_on_what
@_how
def sweep(
    plan_mode: str | None,
    as_json: bool,
    size_scale: str,
    align_corners: bool,
    shortcut: str,
    pool_half: str,
    scales: tuple[float, ...],
    contexts_px: tuple[int, ...],
    progress: Progress,
    **given: Any,
) -> None:
    """Run every allowed configuration on every image and keep one row of scores for each, as Parquet.

    The same command again finishes what is missing. Without --data and --weights the network is trained once on the
    embedded digits, so that every command works anywhere.

    The paper's text leaves --size-scale, --align-corners, --shortcut, --pool-half and --stride-range open: they are
    reconstructions, ours the default, and part of what makes two results the same.

    \b
    JSON: {model, attributes: [...], weights, weights_sha256, weights_pending, sites: {A: {path: [attribute, ...]}},
      swept: [site], why: [...], data, preprocess, variation, assumed: [field], input_shape: [C, H, W], configs,
      default, removed: {reason: n}, images, classes, num_classes, data_classes, few_classes, order, already,
      plain_macs, tree_macs, score_bytes, out, macs_unknown: [name], precision, executor, why_plain,
      estimate: {seconds, images, configs, measured_s}}; a list for several --scale, --context or corruptions
    """
    from itd.runner.request import SweepRequest, varied

    if as_json and plan_mode is None:
        raise click.UsageError("--json prints a plan; give it with --plan")

    conventions = Conventions(size_scale, align_corners, shortcut, pool_half)
    requests = varied(SweepRequest(conventions=conventions, **given), scales=scales, contexts_px=contexts_px)
    if plan_mode is not None:
        show_plans(requests, plan_mode, as_json, progress)
        return
    end_sweeps([run_sweep(request, progress) for request in requests])


def run_sweep(request: Any, progress: Progress) -> Any:
    """One sweep, with its progress and notes of what it did; its report."""
    from itd import sweep as run

    with resumable(progress, "what is in the result"):
        report = run(request, on_start=lambda begun: show_sweep(begun, progress), on_prepare=progress.prepare)
    note_report(report)
    return report


def note_report(report: Any) -> None:
    """Notes of what a sweep did: units that were set aside, then how far the result is."""
    for line in report.set_aside:
        note(line)
    rate = report.done * report.configs / report.seconds if report.done else 0.0
    failed = len(report.failed)
    again = f"; {failed} {'unit' if failed == 1 else 'units'} set aside: the same command tries again" if failed else ""
    nulls = f"; {report.nulls} of them with null rows, as {SIDE}/missing.json says" if report.nulls else ""
    note(
        f"{report.images - report.left} of {report.images} images are in {report.out} ({report.done} now, {rate:.0f} "
        f"rows/s){nulls}{again}"
    )


def end_sweeps(reports: list[Any]) -> None:
    """Ends the command with exit status 3 where units were set aside."""
    if any(report.failed for report in reports):
        click.get_current_context().exit(SET_ASIDE)


def show_sweep(begun: Any, progress: Progress) -> Callable[[int], Any]:
    """Notes of what a sweep is about to do, and its progress in images, those that are there already among them."""
    for text in start_notes(begun):
        note(text)
    configs = len(begun.job.space)
    progress.start(begun.already + begun.todo, "images", done=begun.already, grain="rows", grains=configs)
    return progress.update
