"""The settings of the web page."""

from typing import Literal

from pydantic import Field

from pipeline.settings import MIB, Place, Settings


class ServeSettings(Settings):
    """Settings of `driftrec serve`, named as the flags."""

    host: str = "127.0.0.1"  # address that is listened on; others than the loopback let everybody in who can reach it
    port: int = Field(8000, ge=0, le=65_535)  # 0: any that is free
    model: Place[str] = "tiny"  # embedded, .safetensors (path, URL), fbcnn:, qgac: or ddrm:PATH; identity: no network
    device: Literal["cuda", "mps", "cpu"] | None = None  # where the network computes; None: a GPU if there is one
    max_upload_bytes: int = Field(64 * MIB, ge=1)  # largest picture file that is taken
    max_pixels: int = Field(30_000_000, ge=1)  # largest picture that is restored
    max_waiting: int = Field(8, ge=1)  # pictures that may wait for their turn; more are sent away
