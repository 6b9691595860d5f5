"""Small wheels and programs, to make bundles of."""

from zipfile import ZipFile


def wheel(folder, name, version="1.0", tag="py3-none-any", needs=()):
    """Write a wheel whose only module says its version."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {need}" for need in needs]
    path = folder / f"{name}-{version}-{tag}.whl"
    with ZipFile(path, "w") as content:
        content.writestr(f"{name}.py", f"version = {version!r}\n")
        content.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        content.writestr(
            f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        content.writestr(f"{info}/RECORD", "")
    return path


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
