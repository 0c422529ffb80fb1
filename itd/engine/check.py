"""Whether an executor is the network: whether it gives the logits of the module itself, run on each image alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itd.device import free_memory, raise_if_memory
from itd.engine.executor import Sink
from itd.engine.op import CHANNELS_LAST
from itd.engine.plain import PlainExecutor
from itd.engine.program import Program, compile_program
from itd.engine.tree import TreeExecutor, run_nodes, take_branch
from itd.errors import ItdError, MemoryShortageError, ModelError, TraceError
from itd.patcher import DynamicModel
from itd.space import Space
from itd.text import first_line

MOST = 1e-3
"""The largest difference of logits, in units of their scale, that can be rounding."""
_AGAIN = 1e-5
"""The same of one image that is run twice in the same way."""


def check_tree(program: Program, input_shape: tuple[int, int, int], name: str) -> None:
    """TraceError where the tree gives other logits than the network itself.

    Two images of seeded noise, at the default (where it is in the space) and at others, so that every site moves:
    together through the tree, each alone through the network. A network that looks at its input's values, changes a
    tensor in place through another name, or lets one image of a batch touch another, is found here. So is one of which
    an image's rows do not stand side by side, wherever a tree would cut them. program: in float32, or the difference
    could be rounding. name: of the network, for the message. Where a device's memory is too small for two images, the
    CPU's is tried: what torch.fx recorded is the same everywhere.
    """
    try:
        _check_tree(program, input_shape, name)
        return
    except MemoryShortageError:
        pass
    free_memory(program.device)
    again = compile_program(program.trace, program.space, precision=program.precision, subsample=program.subsample)
    _check_tree(again, input_shape, name)


def _check_tree(program: Program, input_shape: tuple[int, int, int], name: str) -> None:
    configs, pixels = _some(program.space), _noise(input_shape)
    plain = _each_alone(PlainExecutor(program.model, program.space, device=program.device), pixels, configs, name)
    tree: dict[tuple[int, int], Tensor] = {}
    try:
        for config in configs:
            _check_side_by_side(program, pixels, config, name)
        TreeExecutor(program).run(pixels, _keep(tree), configs)
    except ItdError:
        raise
    except Exception as error:  # what torch.fx recorded may hold for other numbers of images than these
        raise_if_memory(error, program.device, "two images")
        raise TraceError(f"{name} as torch.fx traces it cannot be run ({first_line(error)})") from error
    for key, expected in plain.items():
        if tree[key].shape != expected.shape:
            raise TraceError(
                f"{name} as torch.fx traces it is not the same network: it has {tree[key].numel()} logits, the network "
                f"itself {expected.numel()}"
            )
        difference = _difference(tree[key], expected)
        if difference > MOST:
            raise TraceError(
                f"{name} as torch.fx traces it is not the same network: its logits differ by {difference:.0e} of their "
                "scale, because of something that it does in place, by value or across the images of a batch"
            )


def check_plain(
    model: DynamicModel, space: Space, input_shape: tuple[int, int, int], name: str, *, together: bool = True
) -> None:
    """ModelError where a network gives other logits when it is run again, or beside another image.

    As `check_tree`, for plain forwards. together: whether several images are run at once.
    """
    executor, configs, pixels = PlainExecutor(model, space), _some(space), _noise(input_shape)
    alone: dict[tuple[int, int], Tensor] = {}
    for config in configs:
        for image in range(len(pixels)):
            first, again = (_alone(executor, pixels, image, [config], name) for _ in range(2))
            if _difference(again[config, image], first[config, image]) > _AGAIN:
                raise ModelError(
                    f"{name} gives other logits each time that it is run on the same image: it has dropout or "
                    "normalisation in training mode, draws random numbers, or keeps something from one forward to the "
                    "next; take that out"
                )
            alone |= first
    if not together:
        return
    beside: dict[tuple[int, int], Tensor] = {}
    try:
        executor.run(pixels, _keep(beside), configs)
    except MemoryShortageError:
        raise
    except Exception as error:  # a network may raise anything
        raise ModelError(
            f"{name} runs on one image and not on several at once ({first_line(error)}); give `batch_size=1`, which "
            "runs each alone"
        ) from error
    if any(_difference(beside[key], expected) > MOST for key, expected in alone.items()):
        raise ModelError(
            f"{name} lets one image of a batch touch another, so that its logits depend on which images are run "
            "together; give `batch_size=1`, which runs each alone"
        )


def _check_side_by_side(program: Program, pixels: Tensor, config: int, name: str) -> None:
    """TraceError where a value that crosses a site does not hold one image's rows, then the next image's.

    A tree cuts its chunks between images, so that without that order the logits are right until something is cut.
    """
    pixels = pixels.to(program.device, program.precision.dtype, memory_format=CHANNELS_LAST)
    images = [pixels[i : i + 1] for i in range(len(pixels))]
    with torch.inference_mode(), program.precision.flags():
        for together, *alone in zip(*(_crossing(program, some, config) for some in (pixels, *images)), strict=True):
            for number, value in together.items():
                if isinstance(value, Tensor) and not _same(value, torch.cat([values[number] for values in alone])):
                    raise TraceError(
                        f"{name} as torch.fx traces it does not keep an image's rows side by side where they cross a "
                        "site, or lets one image of a batch touch another"
                    )


def _crossing(program: Program, pixels: Tensor, config: int) -> Iterator[dict[int, Any]]:
    """What leaves each stage but the last on the way to a configuration."""
    stages, prefixes = program.stages, program.prefixes
    values: dict[int, Any] = {0: pixels}
    for stage, below, fork, path in zip(stages, stages[1:], prefixes.forks, prefixes.paths(), strict=False):
        values = run_nodes(stage, values, len(pixels))
        yield values
        setting = fork.settings[int(np.argwhere(fork.children == path[config])[0, 1])]
        assert below.branch is not None
        values = take_branch(below.branch, setting, values, below.entering, program.attributes)


def _same(value: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are alike but for rounding, which may tip over some whole numbers."""
    if value.shape != expected.shape:
        return False
    if value.is_floating_point():
        return _difference(value, expected) <= MOST
    return bool((value != expected).float().mean() < 0.01)


def _some(space: Space) -> list[int]:
    """The default configuration, where there is one, and others, as few as move every site that moves at all."""
    chosen = [space.default or 0]
    still = {site for site in range(len(space.sites)) if len({config[site] for config in space.configs}) > 1}
    while still:
        moved = [{site for site in still if config[site] != space.configs[chosen[0]][site]} for config in space.configs]
        best = max(range(len(space)), key=lambda number: (len(moved[number]), number))
        chosen.append(best)
        still -= moved[best]
    return sorted(chosen)


def _noise(shape: tuple[int, int, int]) -> Tensor:
    """(2, C, H, W): two images, of which the second is brighter."""
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return noise * torch.tensor([1.0, 1.25]).view(2, 1, 1, 1)


def _each_alone(
    executor: PlainExecutor, pixels: Tensor, configs: list[int], name: str
) -> dict[tuple[int, int], Tensor]:
    """(configuration, image) -> logits, each image on its own."""
    alone = (_alone(executor, pixels, image, configs, name) for image in range(len(pixels)))
    return {key: logits for found in alone for key, logits in found.items()}


def _alone(
    executor: PlainExecutor, pixels: Tensor, image: int, configs: list[int], name: str
) -> dict[tuple[int, int], Tensor]:
    """(configuration, image) -> logits of one image; ModelError where the network cannot be run."""
    found: dict[tuple[int, int], Tensor] = {}
    try:
        executor.run(pixels[image : image + 1], _keep(found, image), configs)
    except ItdError:
        raise
    except Exception as error:  # a network may raise anything
        raise ModelError(
            f"{name} cannot be run on an image of noise ({first_line(error)}); mend it, or give images of another size"
        ) from error
    return found


def _keep(found: dict[tuple[int, int], Tensor], start: int = 0) -> Sink:
    def keep(configs: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
        for row, key in enumerate(zip(configs.tolist(), (images + start).tolist(), strict=True)):
            found[key] = logits[row]

    return keep


def _difference(logits: Tensor, expected: Tensor) -> float:
    """How far logits are apart, in units of their scale; 0 where they are not finite, which a sweep says itself."""
    if not expected.numel() or not expected.isfinite().all():
        return 0.0
    scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    difference = float((logits - expected).abs().max()) / scale
    return difference if difference == difference else float("inf")
