"""Images and reports from and to a PACS, over DICOMweb or DIMSE."""
