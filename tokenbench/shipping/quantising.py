"""int8 by ONNX Runtime's static quantisation: weights by channel, activations by what they are on some images."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenbench.core.extras import needed
from tokenbench.shipping.header import KEY, Header

QUANTISED: Mapping[str, tuple[str, ...]] = {  # where nearly all of the arithmetic is, by runtime
    "onnxruntime": ("MatMul", "Gemm", "Conv"),
    # Where only the convolution of the patches is int8, OpenVINO 2026.4 loses 14.0 points of top-1 on deit_nano, and
    # none where all but it is.
    "openvino": ("MatMul", "Gemm"),
}


def quantise(path: Path, out: Path, batches: Iterable[Tensor], header: Header, runtime: str) -> None:
    """Write an exported ONNX file's int8 form for a runtime.

    Only products with weights become int8: attention's own, between activations, stay in float32, as do norms, softmax
    and all that chooses tokens.

    Args:
        path: what `exporting.export` wrote.
        out: the file to write.
        batches: images (B, channels, H, W) to find the ranges of activations on, by their least and largest values.
        header: of `path`; it goes into `out` too.
        runtime: that is to run it; one of `QUANTISED`.

    Raises:
        UsageError: ONNX Runtime is not installed.
    """
    needed("onnxruntime", "onnx", "--precision int8")
    onnx: Any = needed("onnx", "onnx", "--precision int8")
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Tensor] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            images = next(self._left, None)
            return None if images is None else {header.input: images.numpy(force=True)}

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), _quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(str(prepared))
        quantization.quantize_static(
            model,
            str(out),
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED[runtime]),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    made = onnx.load(str(out))
    if KEY not in {one.key for one in made.metadata_props}:
        onnx.helper.set_model_props(made, {KEY: header.model_dump_json()})
        onnx.save(made, str(out))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the quantiser says through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
