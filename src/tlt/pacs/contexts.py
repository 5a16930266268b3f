"""Which kinds of DICOM files we take from a peer over DIMSE, and how they may be encoded."""

from __future__ import annotations

from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    LegacyConvertedEnhancedCTImageStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    SpatialRegistrationStorage,
    XRayRadiationDoseSRStorage,
)

UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
COMPRESSED = (
    JPEGLosslessSV1, JPEGLossless, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000,
    RLELossless, JPEGBaseline8Bit, JPEGExtended12Bit, DeflatedExplicitVRLittleEndian,
)  # fmt: skip
IMAGES = (
    CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage,
    SecondaryCaptureImageStorage,
)  # fmt: skip
OTHERS = (
    BasicTextSRStorage, EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage,
    XRayRadiationDoseSRStorage, KeyObjectSelectionDocumentStorage, SegmentationStorage,
    RTStructureSetStorage, GrayscaleSoftcopyPresentationStateStorage, SpatialRegistrationStorage,
    EncapsulatedPDFStorage,
)  # fmt: skip


def storage_classes() -> tuple[str, ...]:
    """SOP Class UIDs of what we take."""
    return tuple(str(kind) for kind in (*IMAGES, *OTHERS))


def receivable(accepting: bool = False) -> list[PresentationContext]:
    """Presentation contexts of what we take; as an acceptor, one a kind with all its syntaxes.

    As a requestor each syntax has a context of its own: of one context the peer picks one syntax,
    and images stored in another would be decompressed or not sent.
    """
    kinds = dict.fromkeys(IMAGES, (*UNCOMPRESSED, *COMPRESSED)) | dict.fromkeys(
        OTHERS, UNCOMPRESSED
    )
    if accepting:
        return [build_context(kind, list(syntaxes)) for kind, syntaxes in kinds.items()]
    return [build_context(kind, one) for kind, syntaxes in kinds.items() for one in syntaxes]
