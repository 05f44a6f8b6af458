"""Training of a pruned network by Ultralytics itself; to be imported where it is installed."""

from typing import Any

from torch import nn
from typing_extensions import override
from ultralytics.models.yolo.detect import DetectionTrainer


class PrunedTrainer(DetectionTrainer):  # type: ignore[misc]
    """Trains a network as it is: ``YOLO(FILE).train(trainer=PrunedTrainer, data=...)``.

    Ultralytics' own trainer builds the network anew from its description, which knows nothing of
    cut channels, and keeps only the weights whose shapes still fit.
    """

    @override
    def get_model(
        self,
        cfg: object = None,
        weights: Any = None,
        verbose: bool = True,
    ) -> nn.Module:
        if weights is None:
            raise ValueError(
                f"the model {cfg} is a description without weights; give the checkpoint of a "
                "pruned network"
            )
        own, wanted = weights.model[-1].nc, self.data["nc"]
        if own != wanted:
            raise ValueError(
                f"the pruned network has {own} classes, but the data has {wanted}; give data with "
                "the classes that it was trained on"
            )
        network: nn.Module = weights.requires_grad_()
        return network
