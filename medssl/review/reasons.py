"""A plain sentence for each outcome, reason, flag and word of quality: what it means and what to do about it."""

from __future__ import annotations

OUTCOMES = {
    "stored": "In the pool.",
    "duplicate": "Already in the pool under another name.",
    "quarantined": "Left out until somebody has looked at it.",
    "excluded": "Sound, but nothing that becomes a volume.",
    "label": "Kept as a label or a mask.",
    "non_image": "Holds no image.",
}
INSTALL = "Its compression needs a package that is not installed here. Install {} and ingest again."
REASONS = {
    "not_dicom": "Neither DICOM nor another image. Nothing to do.",
    "dicomdir": "The table of contents of a medium. Nothing to do: the files are found without it.",
    "report_object": "A report, a presentation state or an encapsulated document. Nothing to do.",
    "no_image_object": "A DICOM object without pixels. Nothing to do.",
    "label_map": "A label map. It is to be looked at together with its image.",
    "archive": "An archive of a kind that is not read. Unpack it, then ingest the folder.",
    "nested_archive": "An archive inside an archive. Unpack the outer one, then ingest the folder.",
    "other_image_format": "PNG, JPEG or TIFF without a row in a table of images. Name it in one (--images).",
    "multi_page": "An image file of several pages. Save them as files of their own.",
    "segmentation": "A segmentation. It is no image; its outlines can serve as labels.",
    "mask_without_image": "A mask whose image is not in the pool. Ingest the image, and the mask again.",
    "mask_empty": "A mask without a single voxel. Nothing to do.",
    "mask_geometry": "A mask that does not lie on the grid of its image. Export it again, on the grid.",
    "derived_object": "Computed from other images, such as a dose or a parameter map. Nothing to do.",
    "secondary_capture": "A screen shot or a scan of paper. Nothing to do; such pictures often show names.",
    "unsupported_object": "An image of a kind that medssl does not take. Nothing to do, or convert it.",
    "localizer": "A scout view for planning. Nothing to do.",
    "single_slice": "One slice alone makes no volume. See whether the rest of its series is missing.",
    "time_axis": "A time series that cannot be told apart into whole volumes. Ask for a fresh export.",
    "other_dimension": "Not of the dimension that `ingest --prepare` asks for. Nothing to do, or use another study.",
    "unreadable": "The file cannot be opened. Look at its permissions or the disk, then ingest again.",
    "link_outside": "A link that leads out of its source. See where to; --follow-links reads what is there.",
    "damaged_archive": "The archive is damaged. Fetch it again.",
    "truncated_archive": "The archive ends too early. Fetch it again.",
    "archive_bomb": "The archive would grow beyond all measure. Find out where it comes from; do not unpack it.",
    "encrypted": "Protected by a password. Unpack it yourself, then ingest the folder.",
    "unsupported_member": "Packed in a way that is not read. Unpack it yourself, then ingest the folder.",
    "empty": "The file has no content. Export it again.",
    "truncated": "The file ends too early. Export it again.",
    "corrupt": "The header is damaged. Export it again.",
    "no_pixel_data": "An image object without its pixels. Export it again.",
    "missing_uid": "It does not say which study, series or object it is. Export it again.",
    "too_large": "Larger than any image that is taken. Look at what it is.",
    "source_changed": "It changed while it was read. Wait until the export is finished, then ingest again.",
    "frame_count": "It holds another number of frames than it says. Export it again.",
    "mosaic": "A mosaic that does not say where its tiles lie. Export it as single slices.",
    "unsupported_syntax": "Compressed in a way that no decoder here knows. Convert it, for instance with dcmtk.",
    "needs_imagecodecs": INSTALL.format("imagecodecs"),
    "needs_pylibjpeg_openjpeg": INSTALL.format("pylibjpeg-openjpeg"),
    "needs_pillow": INSTALL.format("pillow"),
    "needs_pyjpegls": INSTALL.format("pyjpegls"),
    "needs_pylibjpeg_rle": INSTALL.format("pylibjpeg-rle"),
    "unsupported_pixels": "Pixels of a kind that is not taken. Convert it.",
    "bad_pixel_format": "Header and pixels contradict each other. Export it again.",
    "decode_failed": "The pixels cannot be decoded. Export it again.",
    "decoder_died": "The decoder crashed on this file. Export it again; it may be malicious.",
    "burned_in_annotation": "Its header says that text is in the pixels. Look at it; then --burned-in mask or accept.",
    "burned_in_risk": "Its kind often shows names in the pixels. Look at a sample; then --burned-in mask or accept.",
    "no_geometry": "It does not say where its slices lie. Export it again from the archive.",
    "bad_geometry": "Its slices do not lie on one line. Look at how the series was put together.",
    "gantry_tilt": "The gantry was tilted and the slices are uneven too. Ask for a reformatted series.",
    "uneven_spacing": "Distances between slices differ. --allow-gaps resamples such series, flagged.",
    "missing_slices": "Slices are missing. Export the series again; --allow-gaps resamples such series, flagged.",
    "not_resampled": "Too many slices are missing to be resampled, or slices of colours. Export the series again.",
    "duplicate_position": "Several slices at one place that nothing tells apart. Look at the series.",
    "stray_slice": "A slice that lies apart from its series. Nothing to do, unless many do.",
    "incomplete_time_point": "Slices of one time point are missing. Export the series again.",
    "conflicting_pixels": "One UID stands for different pixels. Find out which one is right.",
    "late_slices": "More slices of a series that is in the pool. Remove the patient and ingest again, or leave it.",
    "worker_died": "Its worker ran out of memory, or died. With more memory: remove the patient and ingest again.",
    "build_failed": "Something unforeseen happened. Please report it.",
    "same_pixels": "The same pixels at the same place. Nothing to do.",
    "same_sop_uid": "The same object, sent twice. Nothing to do.",
}
WORDS = {
    "blank": "Nearly all values are one.",
    "constant": "All values are one.",
    "cropped": "Anatomy is cut off by the edge of the field.",
    "low_contrast": "Fewer than 16 grey levels are used.",
    "noise_only": "Neighbouring pixels have nothing in common.",
    "possible_text": "A detector found what looks like text in the pixels. Look at it.",
    "saturated": "Many values lie at the top of the range.",
    "tiny": "Fewer than 32 pixels a side.",
    "near_duplicate": "Looks nearly like an image of another study: sent twice, or a follow-up.",
    "same_pixels_other_patient": "Exactly the image of another patient: one of the two ids is wrong.",
    "same_pixels_other_series": "Another series of its study has the same voxels at the same place.",
    "placeholder_patient": "The id stands for nobody, so the study stands in for the patient.",
    "incomplete_series": "Files of its series were left out.",
    "reused_sop_uid": "Several of its images share one UID.",
    "burned_in_risk": "Of a kind that often shows names in the pixels.",
    "burned_in_annotation": "Its header says that text is in the pixels.",
    "pixels_masked": "Regions or text were blanked.",
    "gantry_tilt": "Sheared: the gantry was tilted.",
    "gaps_resampled": "Slices were missing and are interpolated.",
    "volume_frame": "It says where its slices lie in the volume, but not in the patient, so it has no affine.",
    "rescaled": "Slopes differ between slices, so values are stored after rescaling.",
    "derived": "The header calls it derived.",
    "assumed_modality": "The file does not say its modality; --modality does.",
    "patient_from_file_name": "The patient is taken from the name of the file.",
    "patient_from_folder_name": "The patient is taken from the name of the folder.",
    "padding_range": "Padding is a range of values, of which one is masked.",
    "modality_lut": "Its values were to be looked up in a table first, which is not done; its window is not applied.",
    "window_linear_exact": "Its window is exact: from its centre half its width to each side.",
    "window_sigmoid": "Its window is a smooth curve (SIGMOID), without sharp ends.",
    "character_set": "A text of its header has bytes that its character set does not know.",
    "unoriented": "Prepared as it lies in its file: how it lies in the patient is not known.",
    "unknown_spacing": "Prepared without resampling: its spacing is not known.",
    "shares_object": "Another volume of the same object stands for both in the table of files.",
}


ABBREVIATIONS = {"dicom": "DICOM", "dicomdir": "DICOMDIR", "uid": "UID", "sop": "SOP", "us": "US"}


def plain(word: str) -> str:
    """Return a word of the catalog as people write it.

    Example:
        >>> plain("missing_uid")
        'Missing UID'
    """
    text = " ".join(ABBREVIATIONS.get(part, part) for part in word.split("_"))
    return text[:1].upper() + text[1:]


def of_word(word: str | None) -> str:
    """Return the sentence for a flag or a word of quality; empty where there is none."""
    if word is not None and word.startswith("t_"):
        return f"Its time axis was found by {word.removeprefix('t_').replace('_', ' ')}."
    return WORDS.get(word or "", "")


def of_reason(outcome: str, reason: str | None) -> str:
    """Return the sentence for an outcome and its reason."""
    return REASONS.get(reason or "", OUTCOMES.get(outcome, "") if reason is None else "")
