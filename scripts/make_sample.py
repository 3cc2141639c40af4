"""Make the shipped sample: the first 200 Fashion-MNIST test images of each class, from the published idx files.

    python scripts/make_sample.py --data /usr/share/datasets/fashion-mnist \
        --output tokenbench/sample/fashion_mnist_test2000.npz
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np

PER_CLASS = 200


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzipped idx file: two zero bytes, type 8, the number of axes, each axis, then the values."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise SystemExit(f"{path} is not an idx file of unsigned bytes.")
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def main() -> None:
    """Read the idx files under --data and write --output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of t10k-images-idx3-ubyte.gz and its labels")
    parser.add_argument("--output", type=Path, required=True, help="the .npz file to write")
    args = parser.parse_args()
    images = read_idx(args.data / "t10k-images-idx3-ubyte.gz")
    labels = read_idx(args.data / "t10k-labels-idx1-ubyte.gz")
    # grouped by class, so that an evenly spread subset has the same number of each
    chosen = np.concatenate([np.flatnonzero(labels == c)[:PER_CLASS] for c in range(10)])
    np.savez_compressed(args.output, images=images[chosen], labels=labels[chosen])
    print(f"{args.output}: {len(chosen)} images, {args.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
