"""A prediction that is told to end."""

import ctypes
import os
import signal

import pytest
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from datamodules.errors import Terminated
from experiments.predicting import interrupts, predicting_trainer


class Told(LightningModule):
    """Sends itself a signal in its second batch, within a function that C calls or not."""

    def __init__(self, number, in_c):
        super().__init__()
        self.number, self.in_c, self.done = number, in_c, []

    def predict_dataloader(self):
        return DataLoader(range(4), batch_size=None)

    def predict_step(self, batch, batch_index):
        def tell():
            os.kill(os.getpid(), self.number)
            for _ in range(10_000):  # Python looks for signals now and then
                pass

        if batch == 1:
            ctypes.CFUNCTYPE(None)(tell)() if self.in_c else tell()
        self.done.append(batch)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("in_c", "done"), [(False, [0]), (True, [0, 1])])
@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_ends_it_at_once_or_where_it_is_lost_in_c_before_the_next_batch(number, raised, in_c, done):
    module, handlers = Told(number, in_c), [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(KeyboardInterrupt) as caught, interrupts():
            predicting_trainer("cpu").predict(module, return_predictions=False)
    finally:
        assert signal.getsignal(signal.SIGTERM) is handlers[1]
        signal.signal(signal.SIGINT, handlers[0])  # Lightning leaves it ignored
    assert caught.type is raised
    assert module.done == done
