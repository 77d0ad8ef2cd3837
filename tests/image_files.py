"""Small image files and parquet files for tests of data sources."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def png(pixels, format="PNG"):
    """Encode an array of bytes as a file."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, format)
    return file.getvalue()


def grey(number, size=(4, 5), seed=0):
    """Draw grey images ``[number, height, width]``."""
    return np.random.default_rng(seed).integers(0, 256, (number, *size), dtype=np.uint8)


def colour(number, size=(4, 5), seed=0):
    """Draw colour images ``[number, height, width, 3]``."""
    return np.random.default_rng(seed).integers(0, 256, (number, *size, 3), dtype=np.uint8)


def hub_table(images, labels, names=None, column="image", **others):
    """Make a table as the hub has it: structs of bytes and path, and what the columns are in the metadata."""
    files = [{"bytes": one if isinstance(one, bytes) else png(one), "path": None} for one in images]
    features = {column: {"_type": "Image"}, "label": {"_type": "Value", "dtype": "int64"}}
    if names is not None:
        features["label"] = {"_type": "ClassLabel", "names": list(names)}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {column: pa.array(files, kind), "label": pa.array(labels), **{k: pa.array(v) for k, v in others.items()}}
    table = pa.table(columns)
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_hub(path, images, labels, names=None, **others):
    """Write such a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(hub_table(images, labels, names, **others), path)
    return path
