"""What TensorBoard shows of a training: its losses and rates, and the held pictures."""

import sys
from pathlib import Path

import cv2

from fastrestore.train.validation import SHEET, Validated


class Board:
    """Writes events for TensorBoard, where it is installed; else says once that nothing is written."""

    def __init__(self, state: Path, step: int):
        """state: the folder of the training's state.  step: where it goes on; the curves of later steps, which a run
        that was cut off may have left, are taken back."""
        self.writer, self.sheet = None, state / SHEET
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            notice = "no curves for TensorBoard, which is not there: pip install 'fastrestore[train]'"
            print(f"fastrestore: {notice}", file=sys.stderr)
            return
        self.writer = SummaryWriter(state / "tensorboard", purge_step=step + 1)

    def add(self, step: int, loss: float, learning_rate: float, rate: float, validated: Validated | None) -> None:
        """One point of each curve, and the sheet of the held pictures.  rate: steps a second."""
        if self.writer is None:
            return
        curves = {"loss": loss, "learning rate": learning_rate, "steps a second": rate}
        if validated:
            curves |= {"held/PSNR": validated.psnr, "held/SSIM": validated.ssim}
            self.writer.add_image("held", cv2.imread(str(self.sheet))[..., ::-1], step, dataformats="HWC")
        for name, value in curves.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()
