"""A data set whose items say in which process they were read, importable from every process."""

import os
import signal

import torch


class Where:
    """Items are (a tensor of [process, its parent, whether it leaves Ctrl-C to others], label)."""

    def __init__(self, count=8, dies_at=None):
        self.targets, self.dies_at = [0] * count, dies_at

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        if index == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return torch.tensor([os.getpid(), os.getppid(), blocked]), 0
