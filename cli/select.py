"""`itd select`: what real selectors achieve, cross-validated; and one of them saved for `itd predict`."""

from __future__ import annotations

from typing import Any

import click

from itd_cli.options import SOURCE, bootstrap_options, emit, labels_option, note, noted, output_options, workers_option
from itd_cli.progress import Progress, progress_option


@click.command(
    epilog="Example: itd select results/resnet50-stride.parquet --data /imagenet/val --save selector.safetensors "
    "--method features-logistic"
)
@click.argument("result", metavar="RESULT")
@click.option("--k", type=click.IntRange(min=1), default=5, show_default=True, metavar="K",
              help="Choose among the first K configurations of the greedy list.")  # fmt: skip
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, metavar="F")
@click.option("--data", metavar=SOURCE, help="The result's images: also measure selectors that look at them.")
@labels_option()
@click.option("--classes", "classes_file", metavar="FILE", help="One class name per line, in label order.")
@click.option("--weights", metavar="NAME|FILE|none", help="The result's weights, as `itd sweep` took them.")
@click.option("--before", metavar="RESULT", help="The result before fine-tuning: the gap closed is also told from it.")
@click.option("--save", metavar="FILE", help="A selector made from all images, for `itd predict`: .safetensors.")
@click.option("--method", default="features-logistic", show_default=True, metavar="M",
              help="Which one to save: cascade, averaging, {features,thumbnail}-{logistic,boosting,head}.")  # fmt: skip
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1; default a GPU where there is one.")
@workers_option
@click.option("--partial", is_flag=True, help="Also read a result whose sweep is not finished.")
@bootstrap_options
@progress_option
@output_options(plot=True)
def select(
    result: str,
    before: str | None,
    save: str | None,
    method: str,
    count: int,
    as_json: bool,
    csv_path: str | None,
    plot: str | None,
    progress: Progress,
    **given: Any,
) -> None:
    """What choosing without the label achieves. Cross-validated by image: the greedy list, the thresholds and all that
    is learnt come from the other folds.

    cascade: run the cheapest configuration, stop if it is sure enough, else run the next; from the result alone. With
    --data or --weights also: averaging, the mean of the probabilities of all K; and learners that choose before the
    network has run, from the pooled values at the frontier of level 0 (features) or from 16 x 16 pixels (thumbnail):
    logistic regression, gradient boosting, and a small head in torch.

    Gap closed: how much of the way to the oracle over the same K, from three zeros: static, the network of RESULT as it
    is; the best fixed configuration, which needs no choosing; and, with --before, the network before fine-tuning, for
    fine-tuning itself moves static. GMAC: mean of one image, the selector's own included.

    \b
    JSON: {result, n, k,
      baselines: {static, single_best, most_confident, majority_vote, oracle},
      selectors: {cascade, averaging, features-logistic, ...},
        each of both {accuracy, macs, gap_closed, gap_from_best_fixed,
        gap_from_before}, each of those {value, low, high, n} or null,
      thresholds, lists, curve: [{threshold, accuracy, macs}],
      macs_unknown: [name]}
    """
    from itd.analysis.figures import selection_figure
    from itd.analysis.tables import selection_table
    from itd.store import open_result

    opened = open_result(result).kept()
    noted(opened)
    earlier = None if before is None else open_result(before)
    study, found = _measured(opened, earlier, count, given, save, method, progress)
    emit(
        as_json,
        csv_path,
        found.as_dict(),
        lambda: selection_table(found),
        found.rows,
        plot,
        lambda: selection_figure(found),
    )
    if save:
        study.make(method).save(save)
        note(f"the selector {method}, made from all {found.n} images: {save}")


def _measured(
    opened: Any, before: Any, count: int, given: dict[str, Any], save: str | None, method: str, progress: Progress
) -> tuple[Any, Any]:
    if given["data"] is None and given["weights"] is None and not save:
        from itd.analysis.cascade import cascade
        from itd.analysis.sampling import Resamples

        drawn = Resamples(max(1, opened.n), count, given["seed"])
        return None, cascade(
            opened, k=given["k"], folds=given["folds"], partial=given["partial"], resamples=drawn, before=before
        )
    from itd.selectors.evaluate import SelectorStudy, SelectRequest
    from itd.selectors.selector import check_method, check_selector_path

    if save:
        check_selector_path(save)
        check_method(method)
    study = SelectorStudy(opened, SelectRequest(resamples=count, before=before, **given), on_prepare=progress.prepare)
    if study.source is not None:
        progress.start(opened.n, "images")
    return study, study.measure(progress.update)
