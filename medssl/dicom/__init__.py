"""What the DICOM standard says: headers, decoding, geometry, de-identification, the phantom."""
