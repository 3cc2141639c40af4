"""Runtimes that run exported models on the CPU, each as a module from images to logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenbench.core.extras import needed
from tokenbench.errors import UsageError, WeightsError, first_line
from tokenbench.shipping.header import KEY, Header, read

RUNTIMES = {"onnxruntime": "onnx", "openvino": "openvino"}  # and the extra that each comes with


class OnnxRuntime(nn.Module):
    """An ONNX file in ONNX Runtime, on as many threads as torch uses.

    Raises:
        WeightsError: the file cannot be read, or `tokenbench export` did not write it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        runtime = needed("onnxruntime", "onnx", "An ONNX file")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of classes that only its extension module has
            raise WeightsError(f"{path} cannot be run by ONNX Runtime ({first_line(error)}).") from None
        self.header: Header = read(self._session.get_modelmeta().custom_metadata_map.get(KEY), path)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        given = {self.header.input: images.numpy(force=True)}
        return torch.from_numpy(self._session.run([self.header.output], given)[0])


class OpenVino(nn.Module):
    """An ONNX file in OpenVINO, in float32 on as many threads as torch uses.

    Raises:
        WeightsError: the file cannot be read, or `tokenbench export` did not write it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        openvino = needed("openvino", "openvino", "--runtime openvino")
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        try:
            core = openvino.Core()
            model = core.read_model(str(path))
            self._compiled: Any = core.compile_model(model, "CPU", {**settings, "PERFORMANCE_HINT": "LATENCY"})
        except Exception as error:  # as above
            raise WeightsError(f"{path} cannot be run by OpenVINO ({first_line(error)}).") from None
        self.header: Header = header_of(path)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        return torch.from_numpy(self._compiled(images.numpy(force=True))[0])


def header_of(path: Path) -> Header:
    """What an ONNX file says of itself; raises `WeightsError` where it cannot be read, or is none of ours."""
    onnx = needed("onnx", "onnx", "An ONNX file")
    try:
        told = onnx.load(str(path), load_external_data=False).metadata_props
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror}); give a file that `tokenbench export` wrote."
        ) from None
    except Exception:  # protobuf's
        raise WeightsError(f"{path} is no ONNX file, or is cut or damaged; give one that is whole.") from None
    return read({one.key: one.value for one in told}.get(KEY), path)


def load(runtime: str, path: Path) -> OnnxRuntime | OpenVino:
    """An exported file in a runtime; raises `UsageError` for an unknown one, and as the runtimes do."""
    if runtime not in RUNTIMES:
        raise UsageError(f"Runtime '{runtime}' is none; give {' or '.join(RUNTIMES)}.")
    return OnnxRuntime(path) if runtime == "onnxruntime" else OpenVino(path)
