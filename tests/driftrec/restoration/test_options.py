"""What a restore does: as the user says, else as the model's file, else as the process, else as we do."""

import itertools
from typing import Any

import pytest

from driftrec import Restorer
from driftrec.diffusion.baselines import I2SB
from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE
from driftrec.diffusion.process import Process
from driftrec.models.checkpoint import RECOMMENDED, Checkpoint
from driftrec.networks.config import NetworkConfig
from driftrec.restoration.options import Resolved, Sampling

CONFIG = NetworkConfig(width=8, multipliers=(1, 1), blocks=1)
FILES = {"steps": 3, "fidelity": 0.5, "coarse_fidelity": 0.5, "start": 0.25, "eta": 0.5, "order": 1}
USERS = {"steps": 4, "fidelity": 0.75, "coarse_fidelity": 0.25, "start": 0.3, "eta": 2.0, "order": 2}


@pytest.mark.parametrize("process", [OUVE(), I2SB()], ids=lambda process: process.name)
@pytest.mark.parametrize("recommends", [True, False])
@pytest.mark.parametrize("said", [True, False])
def test_who_says_what(process: Process, recommends: bool, said: bool) -> None:
    """Every setting alone and with every other."""
    assert FILES.keys() == USERS.keys() == set(RECOMMENDED)
    denoiser = Denoiser.create(CONFIG, process)
    for count in (1, 2, len(RECOMMENDED)):
        for names in itertools.combinations(RECOMMENDED, count):
            file: dict[str, Any] = {name: FILES[name] for name in names} if recommends else {}
            user: dict[str, Any] = {name: USERS[name] for name in names} if said else {}
            restorer = Restorer(Checkpoint(denoiser, file), "cpu")
            resolved = Sampling(**user).resolve(restorer.recommended)
            for name in RECOMMENDED:
                ours = process.sampling.get(name, getattr(Resolved(), name))
                assert getattr(resolved, name) == user.get(name, file.get(name, ours)), (name, names)
