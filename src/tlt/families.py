"""The networks that learn: by which class each is built, and by which task it is trained.

Weights carry the name of their family, so that a file rebuilds its network alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlt.training.task import Task


@dataclass(frozen=True)
class Family:
    """Where a network and its training are found; imported when they are asked for.

    Attributes:
        network: ``module:class``; it is built from a configuration, which it keeps as ``config``,
            and lists those known by name in ``presets``.
        task: ``module:class`` of its `tlt.training.task.Task`.
    """

    network: str
    task: str

    def network_class(self) -> Any:
        """The class of the network."""
        return found(self.network)

    def build(self, config: Any) -> Any:
        """A network of a configuration, its weights at random."""
        return self.network_class()(config)

    def new_task(self) -> Task:
        """What it learns, and how it is judged."""
        return found(self.task)()


FAMILIES = {
    "tlt": Family("tlt.model.network:TLT", "tlt.training.tlt_task:TLTTask"),
    "siamrpn": Family("tlt.model.siamrpn:SiamRPN", "tlt.training.siamese_task:SiamRPNTask"),
    "dlt": Family("tlt.model.dlt:DLT", "tlt.training.siamese_task:DLTTask"),
    "transt": Family("tlt.model.transt:TransT", "tlt.training.siamese_task:TransTTask"),
    "voxelmorph": Family(
        "tlt.model.voxelmorph:VoxelMorph", "tlt.training.voxelmorph_task:VoxelMorphTask"
    ),
    "vuld": Family("tlt.model.vuld:VULD", "tlt.training.detection_task:DetectionTask"),
    "lens": Family("tlt.model.lens:LENS", "tlt.training.detection_task:DetectionTask"),
    "lesiongraph": Family(
        "tlt.model.lesiongraph:LesionGraph", "tlt.training.embedding_task:LesionGraphTask"
    ),
    "lesanet": Family("tlt.model.lesanet:LesaNet", "tlt.training.embedding_task:LesaNetTask"),
}


def found(path: str) -> Any:
    """What ``module:name`` stands for."""
    module, name = path.split(":")
    return getattr(import_module(module), name)
