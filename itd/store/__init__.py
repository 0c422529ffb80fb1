"""The Parquet results: writing them so that nothing is lost, reading them so that nothing wrong passes. No torch."""

from itd.store._compact import Compacted, compact
from itd.store._merge import Merged, merge
from itd.store._repair import repair
from itd.store._status import Status, status
from itd.store._union import UnionSource, write_union
from itd.store._verify import VerifyReport, verify
from itd.store.aside import FailedUnit
from itd.store.claims import AtWork, Claims, at_work
from itd.store.existing import (
    check_folder,
    check_target,
    done_images,
    identity_there,
    is_other,
    order_there,
    remove_other,
)
from itd.store.identity import OF_DATA
from itd.store.missing import MissingImage
from itd.store.opening import open_result
from itd.store.replaced import noted_there, unscored_there
from itd.store.result import Result
from itd.store.samples import ImageNames, printable
from itd.store.whole import Damage
from itd.store.writer import ResultWriter, Unit

__all__ = [
    "OF_DATA",
    "AtWork",
    "Claims",
    "Compacted",
    "Damage",
    "FailedUnit",
    "ImageNames",
    "Merged",
    "MissingImage",
    "Result",
    "ResultWriter",
    "Status",
    "UnionSource",
    "Unit",
    "VerifyReport",
    "at_work",
    "check_folder",
    "check_target",
    "compact",
    "done_images",
    "identity_there",
    "is_other",
    "merge",
    "noted_there",
    "open_result",
    "order_there",
    "printable",
    "remove_other",
    "repair",
    "status",
    "unscored_there",
    "verify",
    "write_union",
]
