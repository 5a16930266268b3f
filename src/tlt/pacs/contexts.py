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
    ChestCADSRStorage,
    ColonCADSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExtensibleSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MammographyCADSRStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    PatientRadiationDoseSRStorage,
    ProcedureLogStorage,
    RawDataStorage,
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
PICTURES = (JPEGLosslessSV1, JPEGBaseline8Bit, JPEG2000Lossless, RLELossless)  # in use for them
IMAGES = (
    CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage,
    SecondaryCaptureImageStorage,
)  # fmt: skip
# Of no use to us, but a peer may refuse all of a study where we do not take one object of it.
CAPTURES = (
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)
OTHERS = (
    BasicTextSRStorage, EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage,
    ExtensibleSRStorage, MammographyCADSRStorage, ChestCADSRStorage, ColonCADSRStorage,
    XRayRadiationDoseSRStorage, PatientRadiationDoseSRStorage, ProcedureLogStorage,
    KeyObjectSelectionDocumentStorage, SegmentationStorage, RTStructureSetStorage,
    GrayscaleSoftcopyPresentationStateStorage, SpatialRegistrationStorage, EncapsulatedPDFStorage,
    RawDataStorage,
)  # fmt: skip


def storage_classes() -> tuple[str, ...]:
    """SOP Class UIDs of what we take."""
    return tuple(str(kind) for kind in (*IMAGES, *CAPTURES, *OTHERS))


def receivable(accepting: bool = False) -> list[PresentationContext]:
    """Presentation contexts of what we take; as an acceptor, one a kind with all its syntaxes.

    As a requestor each syntax has a context of its own: of one context the peer picks one syntax,
    and images stored in another would be decompressed or not sent.
    """
    kinds = dict.fromkeys(IMAGES, (*UNCOMPRESSED, *COMPRESSED))
    kinds |= dict.fromkeys(CAPTURES, (*UNCOMPRESSED, *PICTURES))
    kinds |= dict.fromkeys(OTHERS, UNCOMPRESSED)
    if accepting:
        return [build_context(kind, list(syntaxes)) for kind, syntaxes in kinds.items()]
    return [build_context(kind, one) for kind, syntaxes in kinds.items() for one in syntaxes]
