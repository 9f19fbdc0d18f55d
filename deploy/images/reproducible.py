"""Archives and OCI layouts that are the same bytes for the same contents: sorted, without owners, of one date.

SOURCE_DATE_EPOCH is that date (default: 1970).
"""
import gzip
import hashlib
import io
import json
import os
import tarfile

DATE = int(os.environ.get("SOURCE_DATE_EPOCH") or 0)
OCI = "application/vnd.oci.image"


class Blobs(dict):
    """Contents of an OCI layout, by path."""

    def add(self, data, media_type, **more):
        """Takes the data in, and gives its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        self[f"blobs/sha256/{digest}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}

    def layout(self, manifests):
        """All files of a layout with these in its index."""
        return {**self, "oci-layout": text({"imageLayoutVersion": "1.0.0"}),
                "index.json": text({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": manifests})}


def path(descriptor):
    """Where a layout has the blob of a descriptor."""
    return "blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")


def tar_of(contents):
    """A tar of files, by their names."""
    return tar((header(name, tarfile.REGTYPE, 0o644, len(data)), data) for name, data in sorted(contents.items()))


def compressed(data):
    """As gzip does, without name and date."""
    return gzip.compress(data, compresslevel=9, mtime=0)


def files(folder):
    """Headers and contents of all that is in a folder, in the order of their names."""
    for path in sorted(folder.rglob("*")):
        entry, mode = str(path.relative_to(folder)), path.lstat().st_mode & 0o777
        if path.is_symlink():
            yield header(entry, tarfile.SYMTYPE, 0o777, 0, os.readlink(path)), b""
        elif path.is_dir():
            yield header(entry, tarfile.DIRTYPE, 0o1777 if entry == "tmp" else 0o755, 0), b""
        else:
            data = path.read_bytes()
            yield header(entry, tarfile.REGTYPE, 0o755 if mode & 0o100 else 0o644, len(data)), data


def header(name, kind, mode, size, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.mtime, info.linkname = kind, mode, size, DATE, target
    return info


def tar(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def text(value):
    return json.dumps(value, separators=(",", ":")).encode()
