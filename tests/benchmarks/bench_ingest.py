"""How fast DICOM becomes volumes: medssl's ingest beside dcm2niix, SimpleITK, dicom2nifti and MONAI's readers.

    PYTHONPATH=peers python tests/benchmarks/bench_ingest.py              # some minutes; MEDSSL_SHARED names the series
    PYTHONPATH=peers python tests/benchmarks/bench_ingest.py --rounds 1 --only "MR raw"
    PYTHONPATH=peers python tests/benchmarks/bench_ingest.py --only "MR raw, patients" --patients 48 \
        --systems medssl medssl_all_cores dcm2niix

Peers come from a folder (pip install --target peers dcm2niix dicom2nifti SimpleITK itk); what is not there is skipped,
and said. Each run is a process of its own on one core, all interleaved; imports do not count. Everybody ends with a
file: NIfTI without compression, medssl a pool (de-identified, hashed, checked, compressed). A rate a CPU second is what
to compare on a machine that others use as well. Series: a head MR of 192 files, the same of several patients, and a
head CT (28 slices, five times one above the other), as they came and as JPEG lossless and JPEG 2000. ``floor``: reading
every byte and nothing else. ``medssl_all_cores``: a worker a core, for the several patients.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

SHARED = Path(os.environ.get("MEDSSL_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "dicom_series"
COPIES = 5  # of the CT
MANY = "MR raw, patients"
JPEG_LOSSLESS, JPEG_2000 = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90"


def medssl(source: Path, out: Path, workers: int = 1) -> Callable[[], object]:
    """One worker, the whole of ingest."""
    from medssl.ingest.ingest import ingest
    from medssl.pool.key import Key
    from medssl.pool.pool import Pool

    key = Key(b"b" * 32)
    pool = Pool.create(out / "pool", key)
    return lambda: ingest([source], pool, key, workers=workers)


def medssl_all_cores(source: Path, out: Path) -> Callable[[], object]:
    """As many workers as cores."""
    return medssl(source, out, os.cpu_count() or 1)


def dcm2niix(source: Path, out: Path) -> Callable[[], object]:
    """The program, without compression."""
    beside = [Path(folder) / "bin" / "dcm2niix" for folder in sys.path]
    program = next((str(p) for p in beside if p.is_file()), shutil.which("dcm2niix"))
    if program is None:
        raise ImportError("dcm2niix")
    named = ["-f", "%i_%s"]  # by patient and series: of more than 26 of one name it refuses the rest
    command = [program, "-z", "n", *named, "-o", str(out), str(source)]
    return lambda: subprocess.run(command, check=True, capture_output=True)


def simpleitk(source: Path, out: Path) -> Callable[[], object]:
    """GDCM's series reader."""
    import SimpleITK

    def run() -> None:
        for folder in folders(source):
            names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
            SimpleITK.WriteImage(SimpleITK.ReadImage(names), str(out / f"{folder.name}.nii"))

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return run


def dicom2nifti(source: Path, out: Path) -> Callable[[], object]:
    """Folder to folder, without compression."""
    import dicom2nifti

    return lambda: dicom2nifti.convert_directory(str(source), str(out), compression=False)


def _monai(reader: str, source: Path, out: Path) -> Callable[[], object]:
    import nibabel
    from monai.data import ITKReader, PydicomReader

    found = {"pydicom": PydicomReader, "itk": ITKReader}[reader]()

    def run() -> None:
        for folder in folders(source):
            array, about = found.get_data(found.read(str(folder)))
            nibabel.Nifti1Image(array, about["affine"]).to_filename(out / f"{folder.name}.nii")

    return run


def monai_pydicom(source: Path, out: Path) -> Callable[[], object]:
    """MONAI's PydicomReader."""
    return _monai("pydicom", source, out)


def monai_itk(source: Path, out: Path) -> Callable[[], object]:
    """MONAI's ITKReader."""
    import itk  # noqa: F401

    return _monai("itk", source, out)


def floor(source: Path, out: Path) -> Callable[[], object]:
    """Reading every byte."""
    return lambda: [path.read_bytes() for path in files_of(source)]


CANDIDATES = [medssl, medssl_all_cores, dcm2niix, simpleitk, dicom2nifti, monai_pydicom, monai_itk, floor]


def files_of(source: Path) -> list[Path]:
    """Return every file."""
    return [path for path in source.rglob("*") if path.is_file()]


def folders(source: Path) -> list[Path]:
    """Return the folders of single series, for those who read no more than that."""
    return sorted({path.parent for path in files_of(source)})


def child(name: str, source: Path, out: Path) -> None:
    """Run one candidate and print what it took."""
    out.mkdir()
    try:
        run = next(c for c in CANDIDATES if c.__name__ == name)(source, out)
    except ImportError as error:
        print(json.dumps({"skipped": f"{error.name or error} is not installed"}))
        return
    start, cpu = time.perf_counter(), _cpu_s()
    try:
        run()
    except Exception as error:
        print(json.dumps({"skipped": f"{type(error).__name__}: {str(error)[:80]}"}))
        return
    took, cpu = time.perf_counter() - start, _cpu_s() - cpu
    own, other = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": took, "cpu": cpu, "peak_mb": (other if name == "dcm2niix" else own) / 1024}))


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def series(folder: Path, num_patients: int) -> dict[str, Path]:
    """Write the series to be read, each in a folder of its own."""
    found = {"MR raw": folder / "mr", MANY: folder / "mrs", "CT raw": folder / "ct"}
    shutil.copytree(SHARED / "mr_t1_structural_implicit", found["MR raw"])
    _of_patients(found["MR raw"], found[MANY], num_patients)
    found["CT raw"].mkdir()
    _stacked(SHARED / "ct_head_philips_flat", found["CT raw"])
    for name, syntax in (("JPEG lossless", JPEG_LOSSLESS), ("JPEG 2000", JPEG_2000)):
        found[f"CT {name}"] = folder / name
        found[f"CT {name}"].mkdir()
        for path in sorted(found["CT raw"].iterdir()):
            _compress(path, found[f"CT {name}"] / path.name, syntax)
    return found


def _of_patients(source: Path, out: Path, num_patients: int) -> None:
    """Give a series to several patients, each with UIDs of their own."""
    from pydicom import dcmread, uid

    for patient in map(str, range(num_patients)):
        (out / patient).mkdir(parents=True)
        for path in sorted(source.iterdir()):
            ds = dcmread(path)
            ds.PatientID = patient
            for level in ("Study", "Series", "SOP"):
                name = f"{level}InstanceUID"
                ds[name].value = uid.generate_uid(entropy_srcs=[patient, ds[name].value])
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            ds.save_as(out / patient / path.name)


def _stacked(source: Path, out: Path) -> None:
    """Put a CT above itself, with UIDs of their own."""
    from pydicom import dcmread, uid
    from pydicom.errors import InvalidDicomError

    slices = []
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        try:
            ds = dcmread(path)
        except InvalidDicomError:
            continue
        slices += [ds] if "ImagePositionPatient" in ds else []
    heights = sorted(float(ds.ImagePositionPatient[2]) for ds in slices)
    extent = heights[-1] - heights[0] + heights[1] - heights[0]
    for copy in range(COPIES):
        for number, ds in enumerate(slices):
            ds.SOPInstanceUID = uid.generate_uid(entropy_srcs=[str(copy), str(number)])
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            x, y, z = ds.ImagePositionPatient
            ds.ImagePositionPatient = [x, y, float(z) + (extent if copy else 0)]
            ds.InstanceNumber = copy * len(slices) + number + 1
            ds.save_as(out / f"{copy:02d}{number:03d}.dcm")


def _compress(source: Path, out: Path, syntax: str) -> None:
    import gdcm

    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(source))
    if not reader.Read():
        raise RuntimeError(f"{source.name}: gdcm cannot read it")
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise RuntimeError(f"{source.name}: gdcm cannot compress it")
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(out))
    writer.Write()


def main() -> None:
    """Run all candidates in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="series")
    parser.add_argument("--patients", type=int, default=8, help="that one of the series is copied for")
    parser.add_argument("--systems", nargs="*", choices=[c.__name__ for c in CANDIDATES], help="all without")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], Path(args.child[1]), Path(args.child[2]))
        return
    if not SHARED.is_dir():
        raise SystemExit(f"no series at {SHARED}: set MEDSSL_SHARED to the folder that holds data/")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as folder:
        for title, source in series(Path(folder), args.patients).items():
            if not args.only or title in args.only:
                _compare(title, source, Path(folder) / "out", args)


def _compare(title: str, source: Path, out: Path, args: argparse.Namespace) -> None:
    num, size = len(files_of(source)), sum(path.stat().st_size for path in files_of(source))
    names = [c.__name__ for c in CANDIDATES if c is not medssl_all_cores or title == MANY]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names if name in (args.systems or names)}
    skipped: dict[str, str] = {}
    one_core = {"OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
    for _ in range(args.rounds):
        for name in runs.keys() - skipped.keys():
            command = [sys.executable, __file__, "--child", name, str(source), str(out)]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **one_core}, check=False)
            shutil.rmtree(out, ignore_errors=True)
            lines = done.stdout.splitlines()
            found = json.loads(lines[-1]) if lines else {"skipped": f"died with exit code {done.returncode}"}
            if "skipped" in found:
                skipped[name] = found["skipped"]
            else:
                runs[name].append(found)
    print(f"{title}: {num} files, {size / 1e6:.0f} MB\n{'':16}{'files/s':>9}{'files/CPU s':>13}{'peak MB':>9}")
    for name, found_runs in runs.items():
        if name in skipped:
            print(f"{name:16}skipped: {skipped[name]}")
        else:
            seconds, cpu, peak = (median(r[key] for r in found_runs) for key in ("seconds", "cpu", "peak_mb"))
            print(f"{name:16}{num / seconds:9.0f}{num / max(cpu, 1e-3):13.0f}{peak:9.0f}")
    print()


if __name__ == "__main__":
    main()
