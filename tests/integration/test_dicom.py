"""Patients' names, numbers and dates in DICOM files are in nothing that a run writes or prints."""

from __future__ import annotations

import command_line
import numpy as np
from generated import NPZ, SIZE
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

SECRETS = {
    "PatientName": "Wintermute^Jane", "PatientID": "PID-778213", "PatientBirthDate": "19510307",
    "StudyDate": "20170604", "InstitutionName": "St Elsewhere", "ReferringPhysicianName": "Ehrlich^Mark",
    "AccessionNumber": "ACC-55120", "ImageComments": "told in confidence",
    "StudyInstanceUID": generate_uid(entropy_srcs=["a study"]),
}  # fmt: skip


def write_dicom(path, pixels):
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid(entropy_srcs=["an instance"])
    for name, value in SECRETS.items():
        setattr(made, name, value)
    made.Rows = made.Columns = SIZE
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.RescaleSlope, made.RescaleIntercept, made.WindowCenter, made.WindowWidth = "1", "-1000", "1000", "2000"
    made.PixelData = pixels.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)


def test_nothing_identifying_leaves(bench, tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, name in enumerate(("ill", "well")):
            for index in range(4):
                pixels = rng.integers(1000 * label, 1500 + 1000 * label, (SIZE, SIZE))
                write_dicom(tmp_path / "scans" / split / name / f"{index}.dcm", pixels)
    source = (tmp_path / "scans/train/ill/0.dcm").read_bytes()
    assert all(secret.encode() in source for secret in SECRETS.values())
    result = bench(
        "run", "method=random", "dataset=folder", "dataset.root=scans", *NPZ, *command_line.TINY_NETWORK,
        *command_line.TINY_PROTOCOL, "hydra.run.dir=out",
    )  # fmt: skip
    assert result.code == 0, result.err
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"result.json", "config.yaml"} <= {path.name for path in written}
    told = {str(path): path.read_bytes() for path in written} | {
        "stdout": result.out.encode(),
        "stderr": result.err.encode(),
    }
    for name, secret in SECRETS.items():
        assert not [where for where, content in told.items() if secret.encode() in content], name
