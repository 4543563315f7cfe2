"""A picture that a formula gives, for `watermarks.npz`: what the package invisible-watermark 0.2.0 adds to it.

With OpenCV 5.0 and PyWavelets 1.9: `text` is its mark StableDiffusionV1, `sdxl` diffusers' message in real numbers,
int8 (H, W, 3), the picture with the mark minus the picture without. `bits` is what its decoder reads of the first.
"""

from __future__ import annotations

import numpy as np


def picture(height: int = 259, width: int = 301) -> np.ndarray:
    """uint8 (height, width, 3): waves and a chequered half."""
    y, x = np.mgrid[:height, :width]
    waves = [(x * 7 + y * 3) % 256, (x * x // 64 + y) % 256, (y * 5 + x * y // 128) % 256]
    checks = ((x // 9 + y // 11) % 2 * 40)[:, :, None] * (x[:, :, None] > width // 2)
    return (np.stack(waves, -1) // 4 + 60 + checks).astype(np.uint8)
