"""The second opinion: affine registration by Mattes mutual information (SimpleITK)."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from tlt.geometry import AffineTransform
from tlt.registration.pyramid import Level
from tlt.volume import Volume, to_sitk


def register_mattes(fixed: Level, moving: Level) -> AffineTransform:
    """The affine of most mutual information, from the centres of both bodies; repeatable.

    The start itself when ITK gives up (too few samples in the overlap).
    """
    center = fixed.points_mm(fixed.body).mean(0)
    shift = moving.points_mm(moving.body).mean(0) - center
    start = sitk.AffineTransform(3)
    start.SetCenter(center.tolist())
    start.SetTranslation(shift.tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.NONE)  # every voxel: samples are drawn anew each time
    method.SetMetricFixedMask(_mask(fixed))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 60, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([1, 0])
    method.SetInitialTransform(start, inPlace=True)
    method.SetNumberOfWorkUnits(1)  # the sums of several threads are not repeatable
    try:
        method.Execute(_image(fixed), _image(moving))
    except RuntimeError:
        return AffineTransform(np.eye(3), shift)
    matrix = np.array(start.GetMatrix()).reshape(3, 3)
    return AffineTransform.about(matrix, center, np.array(start.GetTranslation()))


def _image(level: Level) -> sitk.Image:
    return to_sitk(Volume(level.image.numpy(), level.grid))


def _mask(level: Level) -> sitk.Image:
    return to_sitk(Volume(level.body.numpy().astype(np.uint8), level.grid))
