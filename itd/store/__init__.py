"""The Parquet results: writing them so that nothing is lost, reading them so that nothing wrong passes. No torch."""

from itd.store._union import UnionSource, write_union
from itd.store._verify import Damage, VerifyReport, verify
from itd.store.result import Result, open_result
from itd.store.samples import ImageNames, printable
from itd.store.writer import (
    ResultWriter,
    Unit,
    check_folder,
    check_target,
    done_images,
    is_other,
    order_there,
    remove_other,
)

__all__ = [
    "Damage",
    "ImageNames",
    "Result",
    "ResultWriter",
    "UnionSource",
    "Unit",
    "VerifyReport",
    "check_folder",
    "check_target",
    "done_images",
    "is_other",
    "open_result",
    "order_there",
    "printable",
    "remove_other",
    "verify",
    "write_union",
]
